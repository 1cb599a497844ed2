"""Preprocess: sums of those that were counted before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedpipe.data import Schema
from fedpipe.errors import FederationError
from fedpipe.federation import Refusal, Reply
from server.artifacts import Spans, Statistics
from server.steps.asking import Asker
from server.steps.preprocess import preprocess

MakeAsker = Callable[..., Asker]
SPANS = Spans(schema_version="1", commitments=(), code={}, refusals={})


def statistics(**sizes: int) -> Statistics:
    return Statistics(
        spans=("undated",),
        label_counts={name: [[[size, 0, 0], [0, 0, 0]]] for name, size in sizes.items()},
        column_health={},
        label_noise_stddev=0.0,
        column_noise_stddev=0.0,
    )


def reply(client: str, age: list[int], town: list[int]) -> Reply:
    return Reply(client=client, arrays={"column_0": np.array(age), "column_1": np.array(town)})


def test_words_are_kept_by_the_counts_of_all_clients(make_asker: MakeAsker, tmp_path: Path) -> None:
    answers = [
        reply("a", [0, 50, 50, 0, 0], [90, 5, 5]),
        reply("b", [0, 50, 50, 0, 0], [60, -9_000, 36]),  # noise may be negative, and this is surely rare
    ]
    asker = make_asker({"preprocess": answers})
    transform = preprocess(SPANS, statistics(a=100, b=100), directory=tmp_path, asker=asker)["transform"]
    age, town = transform.features
    assert town.words == ("ulm",)  # type: ignore[union-attr]
    assert age.center == pytest.approx(50, abs=5)  # type: ignore[union-attr]


def test_the_number_of_records_is_that_of_the_clients_that_answered(
    make_asker: MakeAsker, tmp_path: Path
) -> None:
    """A sum over one client divided by the records of two would halve every mean."""
    alone = make_asker({"preprocess": [reply("a", [0, 50, 50, 0, 0], [90, 5, 5])]})
    beside = make_asker(
        {"preprocess": [reply("a", [0, 50, 50, 0, 0], [90, 5, 5]), Refusal(client="b", reason="away")]}
    )
    expected = preprocess(SPANS, statistics(a=100), directory=tmp_path, asker=alone)
    assert preprocess(SPANS, statistics(a=100, b=400), directory=tmp_path, asker=beside) == expected


def test_clients_that_were_never_counted_do_not_enter(make_asker: MakeAsker, tmp_path: Path) -> None:
    answers = [reply("a", [0, 50, 50, 0, 0], [90, 5, 5]), reply("late", [9, 9, 9, 9, 9], [0, 99, 0])]
    asker = make_asker({"preprocess": answers})
    expected = make_asker({"preprocess": answers[:1]})
    assert preprocess(SPANS, statistics(a=100), directory=tmp_path, asker=asker) == preprocess(
        SPANS, statistics(a=100), directory=tmp_path, asker=expected
    )


def test_a_schema_that_declares_everything_asks_nobody(make_asker: MakeAsker, tmp_path: Path) -> None:
    schema = Schema.model_validate(
        {
            "label": {"name": "ill", "classes": {"no": [], "yes": []}},
            "key": "record_id",
            "columns": {"age": {"type": "numeric", "minimum": 0, "maximum": 10, "normalize": "range"}},
        }
    )
    asker = make_asker({}, data_schema=schema)
    [age] = preprocess(SPANS, statistics(a=1), directory=tmp_path, asker=asker)["transform"].features
    assert (age.lower, age.upper, age.center) == (0, 10, 5)  # type: ignore[union-attr]
    assert asker.clients.requests == []  # type: ignore[attr-defined]


def test_a_histogram_of_another_length_leaves_its_client_out(make_asker: MakeAsker, tmp_path: Path) -> None:
    good, bad = reply("a", [0, 50, 50, 0, 0], [90, 5, 5]), reply("b", [0, 50, 50, 0], [90, 5, 5])
    beside, alone = make_asker({"preprocess": [bad, good]}), make_asker({"preprocess": [good]})
    assert preprocess(SPANS, statistics(a=100, b=100), directory=tmp_path, asker=beside) == preprocess(
        SPANS, statistics(a=100), directory=tmp_path, asker=alone
    )
    with pytest.raises(FederationError, match="from b"):
        preprocess(SPANS, statistics(b=1), directory=tmp_path, asker=make_asker({"preprocess": [bad]}))
