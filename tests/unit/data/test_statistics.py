"""Counts for validation: one cell per record, whatever the record holds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpipe.data import Schema, Shard
from fedpipe.data.statistics import HEALTH, column_health, label_counts

FrameBuild = Callable[..., pd.DataFrame]


def make_shard(frame: pd.DataFrame, labels: list[int], is_eval: list[bool]) -> Shard:
    return Shard(frame=frame, labels=np.array(labels, np.int64), is_eval=np.array(is_eval, np.bool_))


def test_labels_are_counted_by_split(make_schema: Callable[..., Schema]) -> None:
    shard = make_shard(pd.DataFrame(), [0, 1, 1, -1, 0, -1], [False, False, True, True, False, True])
    assert label_counts(shard, make_schema()).tolist() == [[2, 1, 0], [0, 1, 2]]


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
