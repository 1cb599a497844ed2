"""Raw rows as columns of cells, under the names that the model's transform reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from fedpipe.encoding.text import normalize_name
from fedpipe.encrypted.card import Column
from fedpipe.encrypted.transform import Cells, Inputs, PublishedTransform
from fedpipe.errors import EncryptedError

Row = Mapping[str, object]
Place = Callable[[int], str]


def row_place(row: int) -> str:
    """Returns what to call a row, numbered from 0, in a message.

    >>> row_place(0)
    'row 1'
    """
    return f"row {row + 1}"


def encode_rows(transform: PublishedTransform, columns: Sequence[Column], rows: Sequence[Row]) -> Inputs:
    """Returns model inputs, float32 (n, num_features), for rows of text, numbers and None.

    Raises:
      EncryptedError: a row lacks a column, or a cell is neither text nor a finite number.
    """
    named = [{_canonical(str(name)): value for name, value in row.items()} for row in rows]
    cells = {
        column.name: [_find_cell(column, row, row_place(number)) for number, row in enumerate(named)]
        for column in columns
    }
    return encode_cells(transform, cells, row_place)


def encode_cells(transform: PublishedTransform, cells: Mapping[str, Cells], place: Place) -> Inputs:
    """Returns model inputs for columns of text.

    Raises:
      EncryptedError: a number is NaN or infinite; `place` says where.
    """
    found = transform.find_infinite(cells)
    if found is not None:
        raise EncryptedError(
            f"Expected a finite number in column {found[0]!r} of {place(found[1])}, found another: "
            "leave the cell empty if there is none."
        )
    return transform.encode(cells)


def find_column(column: Column, names: Sequence[str], source: str) -> int | None:
    """Returns the position of a column in a header, None for an optional one that is absent.

    Raises:
      EncryptedError: it is absent, or there are two of it.
    """
    canonical = [_canonical(name) for name in names]
    for known in map(_canonical, (column.name, *column.aliases)):
        if canonical.count(known) > 1:
            raise EncryptedError(f"Expected one column {column.name!r} in {source}, found more: drop one.")
        if known in canonical:
            return canonical.index(known)
    if column.optional:
        return None
    raise EncryptedError(f"Expected a column {column.name!r} in {source}, found none: rename or add it.")


def _find_cell(column: Column, row: Row, place: str) -> str:
    for known in map(_canonical, (column.name, *column.aliases)):
        if known in row:
            return _cell_text(row[known], f"column {column.name!r} of {place}")
    if column.optional:
        return ""
    raise EncryptedError(f"Expected a column {column.name!r} in {place}, found none: rename or add it.")


def _cell_text(value: object, place: str) -> str:
    match value:
        case None:
            return ""
        case str():
            # Half of a surrogate pair has no bytes, hence no hash.
            usable = value.isascii() or not any("\ud800" <= sign <= "\udfff" for sign in value)
        case int() | float() | np.integer() | np.floating():
            usable = _is_finite(value)
        case _:
            usable = False
    if not usable:
        raise EncryptedError(f"Expected text, a finite number or None in {place}, found another: correct it.")
    return str(value)


def _is_finite(value: float | np.integer[Any] | np.floating[Any]) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


@lru_cache(maxsize=4096)
def _canonical(name: str) -> str:
    return normalize_name(name)
