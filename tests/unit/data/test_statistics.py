"""Counts for validation: one cell per record, whatever the record holds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedpipe.data import Schema, Shard
from fedpipe.data.statistics import HEALTH, column_health, label_counts
from fedpipe.data.table import Table

FrameBuild = Callable[..., pd.DataFrame]


def make_shard(
    frame: pd.DataFrame, labels: list[int], is_eval: list[bool], spans: list[str] | None = None
) -> Shard:
    return Shard(
        table=Table.of(frame),
        labels=np.array(labels, np.int64),
        is_eval=np.array(is_eval, np.bool_),
        spans=np.array(spans or ["undated"] * len(labels), np.str_),
    )


def test_labels_are_counted_by_split(make_schema: Callable[..., Schema]) -> None:
    shard = make_shard(pd.DataFrame(), [0, 1, 1, -1, 0, -1], [False, False, True, True, False, True])
    assert label_counts(shard, make_schema()).tolist() == [[[2, 1, 0], [0, 1, 2]]]


def test_labels_are_counted_by_span(make_schema: Callable[..., Schema]) -> None:
    spans = ["2026-02", "2026-01", "2026-02", "2026-02", "undated", "2025-12"]
    shard = make_shard(pd.DataFrame(), [0, 1, 1, -1, 0, 1], [False, False, True, False, False, True], spans)
    counts = label_counts(shard, make_schema(), ["2026-01", "2026-02", "2026-03"])
    assert counts.tolist() == [
        [[0, 1, 0], [0, 0, 0]],
        [[1, 0, 1], [0, 1, 0]],
        [[0, 0, 0], [0, 0, 0]],
    ]


@given(
    st.lists(
        st.tuples(st.integers(-1, 1), st.booleans(), st.sampled_from(["2026-01", "2026-02", "undated"])),
        min_size=1,
        max_size=12,
    )
)
def test_a_record_more_changes_one_label_cell_by_one(records: list[tuple[int, bool, str]]) -> None:
    """The array over all spans is one histogram: its sensitivity is 1, however many spans there are."""
    schema = Schema.model_validate(
        {
            "label": {"name": "ill", "classes": {"no": [], "yes": []}},
            "columns": {"x": {"type": "text"}},
        }
    )

    def count(kept: list[tuple[int, bool, str]]) -> NDArray[np.int64]:
        labels, is_eval, spans = ([record[place] for record in kept] for place in range(3))
        return label_counts(
            make_shard(pd.DataFrame(), labels, is_eval, spans), schema, ["2026-01", "2026-02"]
        )

    change = count(records) - count(records[:-1])
    assert np.abs(change).sum() == (records[-1][2] != "undated")


def test_health_by_hand(make_schema: Callable[..., Schema], make_frame: FrameBuild) -> None:
    frame = make_frame(
        age=["30", "", "N/A", "200", "-1", "old", "1e400"],
        state=["ca", "NEW  YORK", "", "TX", "null", "C A", "CA"],
        company=["x", "", "y", "z", "none", "\x00", "NaN"],
    )
    shard = make_shard(frame, [0] * 7, [False] * 7)
    age, state, company = (counts.tolist() for counts in column_health(shard, make_schema()))
    assert dict(zip(HEALTH, age, strict=True)) == {
        "valid": 1,
        "missing": 2,
        "out_of_range": 2,
        "malformed": 2,
    }
    assert dict(zip(HEALTH, state, strict=True)) == {
        "valid": 3,
        "missing": 2,
        "out_of_range": 2,
        "malformed": 0,
    }
    assert dict(zip(HEALTH, company, strict=True)) == {
        "valid": 3,
        "missing": 4,
        "out_of_range": 0,
        "malformed": 0,
    }


def test_no_records_count_nothing(make_schema: Callable[..., Schema], make_frame: FrameBuild) -> None:
    shard = make_shard(make_frame(age=[], state=[], company=[]), [], [])
    assert label_counts(shard, make_schema()).sum() == 0
    assert np.stack(column_health(shard, make_schema())).tolist() == [[0] * 4] * 3


@pytest.fixture
def count_cells(
    make_schema: Callable[..., Schema], make_frame: FrameBuild
) -> Callable[[list[str]], list[int]]:
    schema = make_schema()

    def count(cells: list[str]) -> list[int]:
        size = len(cells)
        shard = make_shard(make_frame(age=cells, state=cells, company=cells), [-1] * size, [True] * size)
        return [int(counts.sum()) for counts in (*column_health(shard, schema), label_counts(shard, schema))]

    return count


def test_nasty_records_fall_into_one_cell_each(
    count_cells: Callable[[list[str]], list[int]], nasty_cells: tuple[str, ...]
) -> None:
    assert count_cells(list(nasty_cells)) == [len(nasty_cells)] * 4
    for cell in nasty_cells:
        assert count_cells([cell]) == [1] * 4


def test_any_records_fall_into_one_cell_each(count_cells: Callable[[list[str]], list[int]]) -> None:
    @given(st.lists(st.text(), max_size=10))
    def check(cells: list[str]) -> None:
        assert count_cells(cells) == [len(cells)] * 4

    check()
