"""Spellings, names and numbers in cells of text. The served model has a twin of each rule."""

from __future__ import annotations

import csv
import math
import re
import string
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Understood alike by Python's re and by RE2. With the length that TensorFlow can parse, every match is a
# finite float64; without it, one long cell would fail a whole batch of predictions.
NUMBER_PATTERN = r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,2})?"
NUMBER_LENGTH = 31
DELIMITERS = ",;\t|"  # of equals, the first
ASCII_WHITESPACE = " \t\n\r\f\v"

_NUMBER = re.compile(NUMBER_PATTERN)
_LOWER_CASE = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def normalize_name(name: str) -> str:
    """Returns a column name in snake_case, without what surrounds it in exports.

    >>> normalize_name("Consumer disputed?")
    'consumer_disputed'
    """
    return re.sub(r"[\W_]+", "_", name.lower()).strip("_")


def find_delimiter(header: str) -> str:
    """Returns what separates the fields of a CSV file, by its header line alone: the same for every record.

    Where a comma separates decimals, spreadsheets write semicolons between the cells.

    >>> find_delimiter("id;amount, EUR;disputed"), find_delimiter("narrative")
    (';', ',')
    """
    return max(DELIMITERS, key=lambda each: len(next(csv.reader([header], delimiter=each), ())))


def normalize_text(text: str) -> str:
    """Returns a cell in lower case, with single spaces and no ".0": two spellings of one value agree.

    The served model does the same with TensorFlow's operations. Only ASCII letters and white
    space count: other rules of case depend on the locale and on the version of Unicode.

    >>> normalize_text("  Closed  with Relief ")
    'closed with relief'
    >>> normalize_text("3.0")
    '3'
    """
    text = re.sub(r"[\x00 \t\n\r\f\v]+", " ", text.translate(_LOWER_CASE)).strip(" ")
    # Exporters write integers as floats as soon as one cell of the column is missing.
    return re.sub(r"^([+-]?[0-9]+)\.0*$", r"\1", text)


def parse_number(text: str) -> float:
    """Returns the number that `text` is, without white space around it; NaN if it is none."""
    return float(text) if len(text) <= NUMBER_LENGTH and _NUMBER.fullmatch(text) else math.nan


def read_numbers(cells: Sequence[str]) -> NDArray[np.float64]:
    """Returns the numbers in `cells`, NaN where a cell is not a plain decimal of at most 31 characters."""
    return np.fromiter((parse_number(cell.strip(ASCII_WHITESPACE)) for cell in cells), np.float64, len(cells))


def find_positions(texts: Iterable[Any], known: Iterable[Any]) -> NDArray[np.int64]:
    """Returns the position of every one of `texts` in `known`, len(known) for any other."""
    places = {item: index for index, item in enumerate(known)}
    return np.array([places.get(text, len(places)) for text in texts], dtype=np.int64)
