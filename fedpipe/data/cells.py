"""Cells of text as numbers, categories and classes. The served model has a twin of each rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedpipe.data.schema import Label, NumericColumn, TimeColumn
from fedpipe.data.spans import UNDATED, span_of_text
from fedpipe.encoding.features import find_missing
from fedpipe.encoding.text import normalize_text, read_numbers

Item = TypeVar("Item", bound=np.generic)


def by_distinct(cells: pd.Series[str], rule: Callable[[pd.Series[str]], NDArray[Item]]) -> NDArray[Item]:
    """Returns `rule(cells)` for a rule that looks at each cell alone, run once per distinct cell."""
    # Not pd.factorize: on object columns its hash table ends a text at the first NUL.
    places: dict[str, int] = {}
    codes = np.fromiter(
        (places.setdefault(cell, len(places)) for cell in cells.tolist()), np.int64, len(cells)
    )
    return rule(pd.Series(list(places), dtype=object))[codes]


def parse_numbers(cells: pd.Series[str]) -> NDArray[np.float64]:
    """Returns the numbers in `cells`, NaN where a cell is not a plain decimal of at most 31 characters."""
    return read_numbers(cells.tolist())


def normalize_cells(cells: pd.Series[str]) -> list[str]:
    """Returns every cell as `normalize_text` does."""
    return [normalize_text(cell) for cell in cells.tolist()]


def is_missing(cells: pd.Series[str], missing_tokens: tuple[str, ...]) -> NDArray[np.bool_]:
    """Returns where a cell means 'no value'."""
    return find_missing(cells.tolist(), missing_tokens)


def parse_labels(
    cells: pd.Series[str], label: Label, missing_tokens: tuple[str, ...] = ()
) -> NDArray[np.int64]:
    """Returns the class number of every cell, -1 where it is missing or no known spelling."""
    known = dict(label.spellings())

    def parse(distinct: pd.Series[str]) -> NDArray[np.int64]:
        classes = np.array([known.get(text, -1) for text in normalize_cells(distinct)], dtype=np.int64)
        missing = is_missing(distinct, ("", *missing_tokens))
        if label.positive_above is not None:
            numbers = parse_numbers(distinct)
            numeric = ~np.isnan(numbers) & ~missing & (classes < 0)
            classes[numeric] = numbers[numeric] > label.positive_above
        if label.missing == "negative":
            classes[missing & (classes < 0)] = 0
        return classes

    return by_distinct(cells, parse)


def parse_spans(
    cells: pd.Series[str], time: TimeColumn, missing_tokens: tuple[str, ...] = ()
) -> NDArray[np.str_]:
    """Returns the span of every cell, `undated` where it is missing or no date."""

    def parse(distinct: pd.Series[str]) -> NDArray[np.str_]:
        missing = is_missing(distinct, missing_tokens)
        texts = normalize_cells(distinct)
        spans = [
            UNDATED if gone else span_of_text(text, time.window, time.formats)
            for text, gone in zip(texts, missing, strict=True)
        ]
        return np.array(spans, dtype=np.str_)

    return by_distinct(cells, parse)


def out_of_range(numbers: NDArray[np.float64], column: NumericColumn) -> NDArray[np.bool_]:
    """Returns where a number lies outside its declared range (NaN does not)."""
    return (numbers < column.minimum) | (numbers > column.maximum)
