"""Cells of text as numbers, categories and classes. The served model has a twin of each rule."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedpipe.data.schema import Label, NumericColumn, normalize_text

# Understood alike by Python's re and by RE2; bounded, so that every match is a finite float64.
NUMBER_PATTERN = r"[+-]?([0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40})([eE][+-]?[0-9]{1,2})?"
ASCII_WHITESPACE = " \t\n\r\f\v"


def parse_numbers(cells: pd.Series[str]) -> NDArray[np.float64]:
    """Returns the numbers in `cells`, NaN where a cell is not a plain decimal number."""
    stripped = cells.str.strip(ASCII_WHITESPACE)
    plain = stripped.str.fullmatch(NUMBER_PATTERN).to_numpy(dtype=bool)
    numbers = np.full(len(stripped), np.nan)
    numbers[plain] = stripped.to_numpy()[plain].astype(np.float64)
    return numbers


def normalize_cells(cells: pd.Series[str]) -> pd.Series[str]:
    """Returns every cell as `normalize_text` does, computed once per distinct value."""
    return cells.map({value: normalize_text(value) for value in cells.unique()}).astype(object)


def is_missing(cells: pd.Series[str], missing_tokens: tuple[str, ...]) -> NDArray[np.bool_]:
    """Returns where a cell means 'no value'."""
    return normalize_cells(cells).isin({normalize_text(token) for token in missing_tokens}).to_numpy()


def parse_labels(cells: pd.Series[str], label: Label) -> NDArray[np.int64]:
    """Returns the class number of every cell, -1 where it is missing or no known spelling."""
    known = dict(label.spellings())
    return normalize_cells(cells).map(lambda text: known.get(text, -1)).to_numpy(dtype=np.int64)


def out_of_range(numbers: NDArray[np.float64], column: NumericColumn) -> NDArray[np.bool_]:
    """Returns where a number lies outside its declared range (NaN does not)."""
    return (numbers < column.minimum) | (numbers > column.maximum)
