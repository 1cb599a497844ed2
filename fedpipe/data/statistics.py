"""What `validate` counts: labels by span and split, and the health of every column.

Every record falls into exactly one cell of each histogram; the accounting of the noise
(`NoisyHistograms`) relies on it. So does a user into one cell of the counts of users.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedpipe.data.cells import (
    by_distinct,
    is_missing,
    normalize_cells,
    out_of_range,
    parse_numbers,
)
from fedpipe.data.schema import (
    CategoricalColumn,
    Column,
    EmbeddingColumn,
    ImageColumn,
    NumericColumn,
    Schema,
)
from fedpipe.data.shard import Shard
from fedpipe.data.spans import UNDATED
from fedpipe.encoding.media import is_image, parse_vectors
from fedpipe.encoding.text import find_positions, normalize_text
from fedpipe.errors import DataError

HEALTH = ("valid", "missing", "out_of_range", "malformed")

Counts = NDArray[np.int64]


def label_counts(shard: Shard, schema: Schema, spans: Sequence[str] = (UNDATED,)) -> Counts:
    """Returns int64 (num_spans, 2, num_classes + 1): span x [train, eval] x [class 0, ..., unknown].

    A record lies in one span, one split and one class: the whole array is one histogram, of sensitivity
    1 however many spans there are. Records of other spans are not counted.
    """
    shape = (len(spans), 2, schema.num_classes + 1)
    places = find_positions(shard.spans.tolist(), spans)
    counted = places < len(spans)
    classes = np.where(shard.labels < 0, schema.num_classes, shard.labels)
    cells = (places[counted], shard.is_eval[counted].astype(int), classes[counted])
    counts = np.zeros(shape, dtype=np.int64)
    np.add.at(counts, cells, 1)
    return counts


def user_counts(shard: Shard) -> Counts:
    """Returns int64 (2,): the users that have labelled records, [train, eval].

    All records of a user are in one split, so a user changes one cell by one, however many records she has.

    Raises:
      DataError: the schema names no users.
    """
    if shard.users is None:
        raise DataError("Expected schema.user to count users, found none: name the column.")
    labelled = shard.labels >= 0
    sides = (labelled & ~shard.is_eval, labelled & shard.is_eval)
    return np.array([len(np.unique(shard.users[side])) for side in sides], dtype=np.int64)


def column_health(shard: Shard, schema: Schema) -> list[Counts]:
    """Returns for every feature column, in order, int64 (4,): records by `HEALTH`."""
    counts = [np.zeros(len(HEALTH), dtype=np.int64) for _ in schema.columns]
    for frame in shard.table.parts(list(schema.columns)):
        for place, (name, column) in enumerate(schema.columns.items()):
            counts[place] += _count(frame[name], column, schema.missing_tokens)
    return counts


def _count(cells: pd.Series[str], column: Column, missing_tokens: tuple[str, ...]) -> Counts:
    health = by_distinct(cells, lambda distinct: _health(distinct, column, missing_tokens))
    return np.bincount(health, minlength=len(HEALTH))


def _health(cells: pd.Series[str], column: Column, missing_tokens: tuple[str, ...]) -> NDArray[np.int64]:
    missing = is_missing(cells, missing_tokens)
    malformed = outside = np.zeros(len(cells), dtype=bool)
    match column:
        case NumericColumn():
            numbers = parse_numbers(cells)
            malformed = np.isnan(numbers)
            outside = out_of_range(numbers, column)
        case CategoricalColumn(vocabulary=words) if words:
            known = {normalize_text(word) for word in words}
            outside = np.array([text not in known for text in normalize_cells(cells)], dtype=bool)
        case EmbeddingColumn():
            malformed = ~parse_vectors(cells.tolist(), column.size)[1]
        case ImageColumn():
            malformed = np.array([not is_image(cell, column.num_bytes) for cell in cells], dtype=bool)
    return np.select([missing, malformed, outside], [1, 3, 2], default=0).astype(np.int64)
