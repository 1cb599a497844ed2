"""Weights by span and class: public, at most one, and each record's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedpipe.data.balance import Balance

SPANS = ("2026-01", "2026-02")
HALF = Balance(answer="reweight", spans=SPANS, weights=((1.0, 0.5), (0.25, 1.0)))


def test_each_record_gets_the_weight_of_its_span_and_class() -> None:
    spans = np.array(["2026-02", "2026-01", "2026-01", "2026-02"])
    weights = HALF.of_records(spans, np.array([0, 0, 1, 1], np.int32))
    assert weights.tolist() == [0.25, 1.0, 0.5, 1.0]
    assert weights.dtype == np.float32


def test_no_records_have_no_weights() -> None:
    weights = HALF.of_records(np.array([], dtype=np.str_), np.zeros(0, np.int32))
    assert (weights.shape, weights.dtype) == ((0,), np.float32)


@given(st.lists(st.tuples(st.sampled_from(SPANS), st.integers(0, 1)), min_size=1, max_size=9))
def test_a_record_s_weight_does_not_depend_on_other_records(records: list[tuple[str, int]]) -> None:
    def weigh(kept: list[tuple[str, int]]) -> list[float]:
        spans, labels = zip(*kept, strict=True)
        found: list[float] = HALF.of_records(np.array(spans), np.array(labels, np.int32)).tolist()
        return found

    assert weigh(records) == [weigh([record])[0] for record in records]


def test_an_even_balance_changes_nothing() -> None:
    balance = Balance.even(SPANS, 3)
    assert (balance.answer, balance.num_classes) == ("none", 3)
    assert balance.weights == ((1.0, 1.0, 1.0),) * 2


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": [[1.0, 0.5]]},
        {"weights": [[1.0, 0.5], [1.0]]},
        {"weights": [[1.0, 1.5], [1.0, 1.0]]},
        {"weights": [[1.0, -0.5], [1.0, 1.0]]},
        {"weights": [[1.0, float("nan")], [1.0, 1.0]]},
        {"spans": []},
        {"answer": "none"},
        {"answer": "double"},
    ],
    ids=str,
)
def test_weights_that_cannot_be_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Balance.model_validate(HALF.model_dump() | changes)
