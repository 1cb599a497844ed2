"""What `preprocess` counts at clients, and the `Transform` that the coordinator fits to the sums.

Numeric columns: a histogram over the declared range. Categories: a count for each public word
or hash bucket. Every record falls into exactly one cell of each histogram.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from fedpipe.data.cells import by_distinct, is_missing, normalize_cells, parse_numbers
from fedpipe.data.schema import (
    CategoricalColumn,
    Column,
    EmbeddingColumn,
    ImageColumn,
    NumericColumn,
    Schema,
    TextColumn,
)
from fedpipe.data.table import Table
from fedpipe.data.transform import (
    Feature,
    HashedFeature,
    ImageFeature,
    NumericFeature,
    TextFeature,
    Transform,
    VectorFeature,
    VocabularyFeature,
)
from fedpipe.encoding.hashing import hash_buckets
from fedpipe.encoding.text import find_positions, normalize_text
from fedpipe.errors import DataError

Counts = NDArray[np.int64]

SURE_DEVIATIONS = 2.0


class PreprocessSettings(BaseModel):
    """How columns become model inputs."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_bins: int = Field(16, ge=2, le=1024, description="Cells of a numeric column's private histogram.")
    clip_deviations: float = Field(
        4.0, ge=0.1, description="Standardised numbers are clipped to this many standard deviations."
    )
    min_count: float = Field(
        10.0,
        ge=0,
        description="A category that, noise allowed for, was surely seen fewer times is merged into OTHER.",
    )


def profiled_columns(schema: Schema) -> dict[str, NumericColumn | CategoricalColumn]:
    """Returns the columns that cost a histogram, in order."""
    return {
        name: column
        for name, column in schema.columns.items()
        if isinstance(column, (NumericColumn, CategoricalColumn)) and not _is_free(column)
    }


def histogram_shapes(schema: Schema, settings: PreprocessSettings) -> list[tuple[int]]:
    """Returns the shapes of `feature_counts`."""
    return [(_num_cells(column, settings) + 1,) for column in profiled_columns(schema).values()]


def feature_counts(table: Table, schema: Schema, settings: PreprocessSettings) -> list[Counts]:
    """Returns one histogram per profiled column; the last cell counts what is unusable or OTHER."""
    columns = profiled_columns(schema)
    counts = [np.zeros(shape, dtype=np.int64) for shape in histogram_shapes(schema, settings)]
    for frame in table.parts(list(columns)):
        for place, (name, column) in enumerate(columns.items()):
            counts[place] += _count(frame[name], column, schema.missing_tokens, settings)
    return counts


def fit_transform(
    counts: list[Counts],
    schema: Schema,
    settings: PreprocessSettings,
    *,
    noise_stddev: float,
    num_records: float,
) -> Transform:
    """Returns the preprocessing that noisy sums of `feature_counts` support.

    Args:
      counts: sums over clients, one per profiled column.
      schema: the columns that were counted.
      settings: those that they were counted with.
      noise_stddev: standard deviation of the noise in each cell of the sums.
      num_records: estimate of the number of training records.

    Raises:
      DataError: if `counts` are not those of `schema` and `settings`.
    """
    sums = _sums_by_column(counts, schema, settings)
    features = tuple(
        _fit(name, column, sums.get(name), settings, noise_stddev, max(num_records, 1.0))
        for name, column in schema.columns.items()
    )
    return Transform(features=features, missing_tokens=schema.missing_tokens)


def _sums_by_column(counts: list[Counts], schema: Schema, settings: PreprocessSettings) -> dict[str, Counts]:
    expected, found = histogram_shapes(schema, settings), [np.shape(count) for count in counts]
    if found != expected:
        raise DataError(f"Expected counts of shapes {expected}, found {found}: ask with the same settings.")
    return dict(zip(profiled_columns(schema), counts, strict=True))


def _is_free(column: NumericColumn | CategoricalColumn) -> bool:
    return isinstance(column, NumericColumn) and column.normalize == "range"


def _count(
    cells: pd.Series[str],
    column: NumericColumn | CategoricalColumn,
    missing_tokens: tuple[str, ...],
    settings: PreprocessSettings,
) -> Counts:
    size = _num_cells(column, settings)
    index = by_distinct(
        cells,
        lambda distinct: np.where(is_missing(distinct, missing_tokens), size, _index(distinct, column, size)),
    )
    return np.bincount(index, minlength=size + 1)


def _num_cells(column: NumericColumn | CategoricalColumn, settings: PreprocessSettings) -> int:
    """Returns the number of cells of a column's histogram, the last one not counted."""
    if isinstance(column, NumericColumn):
        return settings.num_bins
    return column.hash_buckets or len(column.vocabulary)


def _index(cells: pd.Series[str], column: NumericColumn | CategoricalColumn, size: int) -> Counts:
    """Returns the cell of the histogram that every one of `cells` falls into; `size` for none of its own."""
    if isinstance(column, NumericColumn):
        numbers = parse_numbers(cells)
        position = (np.clip(numbers, column.minimum, column.maximum) - column.minimum) / _range(column)
        index = np.minimum(np.nan_to_num(position) * size, size - 1).astype(np.int64)
        return np.where(np.isnan(numbers), size, index)
    if column.hash_buckets:
        return hash_buckets(normalize_cells(cells), size)
    return find_positions(normalize_cells(cells), map(normalize_text, column.vocabulary))


def _fit(
    name: str,
    column: Column,
    counts: Counts | None,
    settings: PreprocessSettings,
    noise_stddev: float,
    num_records: float,
) -> Feature:
    if isinstance(column, TextColumn):
        return TextFeature(column=name, num_buckets=column.hash_buckets, ngrams=column.ngrams)
    if isinstance(column, EmbeddingColumn):
        return VectorFeature(column=name, size=column.size)
    if isinstance(column, ImageColumn):
        return ImageFeature(column=name, shape=(column.height, column.width, column.channels))
    if isinstance(column, NumericColumn):
        if counts is None:
            center, scale = (column.minimum + column.maximum) / 2, _range(column) / 2
            return NumericFeature(
                column=name, lower=column.minimum, upper=column.maximum, center=center, scale=scale
            )
        num_valid = max(num_records - max(float(counts[-1]), 0.0), 0.05 * num_records)
        return _fit_numeric(name, column, counts[:-1], settings, noise_stddev, num_valid)
    if counts is None:
        raise ValueError("Expected counts for every categorical column.")
    # Only what is surely rare goes: its noise hurts few records, while its loss would hurt all of them.
    kept = np.flatnonzero(counts[:-1] >= settings.min_count - SURE_DEVIATIONS * noise_stddev)
    if column.hash_buckets:
        return HashedFeature(
            column=name, num_buckets=column.hash_buckets, buckets=tuple(int(bucket) for bucket in kept)
        )
    return VocabularyFeature(column=name, words=tuple(normalize_text(column.vocabulary[i]) for i in kept))


def _fit_numeric(
    name: str,
    column: NumericColumn,
    counts: Counts,
    settings: PreprocessSettings,
    noise_stddev: float,
    num_records: float,
) -> NumericFeature:
    """Returns mean and deviation from a noisy histogram, pulled towards the declared range.

    Each moment is a weighted sum of cells, so its noise is known; it is averaged with that of a
    uniform distribution over the range in proportion to their precisions. Without noise the
    histogram decides, under heavy noise the declaration does.
    """
    middle, width = (column.minimum + column.maximum) / 2, _range(column)
    edges = np.linspace(-width / 2, width / 2, len(counts) + 1)
    points = (edges[:-1] + edges[1:]) / 2
    offset = _shrunk_moment(counts, points, noise_stddev, num_records, prior=0.0, spread=width / 4)
    offset = float(np.clip(offset, -width / 2, width / 2))
    uniform = width**2 / 12
    square = _shrunk_moment(counts, points**2, noise_stddev, num_records, prior=uniform, spread=uniform)
    within_bin = (width / len(counts)) ** 2 / 12
    variance = max(square - offset**2 - within_bin, (width / 40) ** 2)
    center = float(np.clip(middle + offset, column.minimum, column.maximum))
    scale = float(np.sqrt(variance))
    reach = settings.clip_deviations * scale
    return NumericFeature(
        column=name,
        lower=max(column.minimum, center - reach),
        upper=min(column.maximum, center + reach),
        center=center,
        scale=scale,
    )


def _shrunk_moment(
    counts: Counts,
    values: NDArray[np.float64],
    noise_stddev: float,
    num_records: float,
    *,
    prior: float,
    spread: float,
) -> float:
    estimate = float(counts @ values) / num_records
    noise_variance = noise_stddev**2 * float(values @ values) / num_records**2
    weight = spread**2 / (spread**2 + noise_variance)
    return weight * estimate + (1 - weight) * prior


def _range(column: NumericColumn) -> float:
    return column.maximum - column.minimum
