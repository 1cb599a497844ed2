"""Cells of text as numbers, gaps and classes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpipe.data import Label, NumericColumn
from fedpipe.data.cells import (
    by_distinct,
    is_missing,
    normalize_cells,
    out_of_range,
    parse_labels,
    parse_numbers,
)
from fedpipe.encoding.text import normalize_text


def series(*cells: str, dtype: Any = str) -> pd.Series[str]:
    return pd.Series(list(cells), dtype=dtype)


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        ("1", 1),
        (" -2.5\n", -2.5),
        ("+.5", 0.5),
        ("1.", 1),
        ("1e5", 1e5),
        ("1E-2", 0.01),
        ("007", 7),
        ("9" * 31, 1e31),
    ],
)
def test_plain_decimal_is_a_number(cell: str, number: float) -> None:
    assert parse_numbers(series(cell)).tolist() == [pytest.approx(number, rel=1e-15)]


@pytest.mark.parametrize(
    "cell",
    [
        "",
        "N/A",
        "nan",
        "inf",
        "1e400",
        "1_000",
        "0x10",
        "\uff11\uff12",
        "1,5",
        "1 0",
        "9" * 32,
        "1\x00",
        "\u00a01",
        "1e",
        ".",
    ],
)
def test_anything_else_is_no_number(cell: str) -> None:
    assert math.isnan(parse_numbers(series(cell))[0])


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e90, max_value=1e90))
def test_number_written_by_python_is_read_exactly(number: float) -> None:
    text = repr(number) if abs(number) >= 1e-90 else "0"
    assert parse_numbers(series(text))[0] == float(text)


@given(st.lists(st.text(), max_size=20))
def test_numbers_are_finite_or_nan(cells: list[str]) -> None:
    numbers = parse_numbers(series(*cells, dtype=object))
    assert numbers.shape == (len(cells),)
    assert not np.isinf(numbers).any()


@pytest.mark.parametrize("dtype", [str, object])
def test_rule_runs_once_per_distinct_cell(dtype: Any) -> None:
    seen: list[list[str]] = []

    def rule(distinct: pd.Series[str]) -> Any:
        seen.append(distinct.tolist())
        return np.array([len(cell) for cell in distinct])

    cells = series("bb", "a", "bb", "a\x00b", "a", "a\x00c", "", dtype=dtype)
    assert by_distinct(cells, rule).tolist() == [2, 1, 2, 3, 1, 3, 0]
    assert seen == [["bb", "a", "a\x00b", "a\x00c", ""]]


def test_rule_on_no_cells_gives_nothing() -> None:
    assert by_distinct(series(), parse_numbers).tolist() == []


@given(st.lists(st.text(max_size=3)))
def test_distinct_or_not_the_answer_is_the_same(cells: list[str]) -> None:
    column = series(*cells, dtype=object)

    def rule(distinct: pd.Series[str]) -> Any:
        return np.array(normalize_cells(distinct), dtype=object)

    assert by_distinct(column, rule).tolist() == [normalize_text(cell) for cell in cells]


def test_missing_tokens_match_in_any_case_and_spacing() -> None:
    cells = series("", " ", "N/A", "n/A ", "-9.0", "-9", "-90", "none of it")
    assert is_missing(cells, ("", "n/a", "-9")).tolist() == [True] * 6 + [False] * 2


def test_label_is_its_class_or_unknown() -> None:
    label = Label.model_validate({"name": "y", "classes": {"no": ["0", "False"], "yes": ["1", "True"]}})
    cells = series("No", " YES ", "0", "1.0", "TRUE", "", "maybe", "none")
    assert parse_labels(cells, label).tolist() == [0, 1, 0, 1, 1, -1, -1, -1]


def test_bounds_lie_in_the_range_and_nan_is_not_outside() -> None:
    column = NumericColumn.model_validate({"minimum": 0, "maximum": 1})
    numbers = np.array([-0.1, 0, 0.5, 1, 1.1, np.nan])
    assert out_of_range(numbers, column).tolist() == [True, False, False, False, True, False]
