"""From cells to model inputs: fitted on noisy counts, the same at clients and in the served model."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from fedpipe.data.cells import is_missing, normalize_cells, parse_numbers
from fedpipe.data.hashing import hash_bucket


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NumericFeature(_Frozen):
    """(clip(x, lower, upper) - center) / scale; 0 where x is missing or malformed."""

    type: Literal["numeric"] = "numeric"
    column: str
    lower: float
    upper: float
    center: float
    scale: float = Field(gt=0)

    @property
    def width(self) -> int:
        """Number of model inputs."""
        return 1


class VocabularyFeature(_Frozen):
    """One-hot over `words` (normalised), then OTHER for anything else, missing included."""

    type: Literal["vocabulary"] = "vocabulary"
    column: str
    words: tuple[str, ...]

    @property
    def width(self) -> int:
        """Number of model inputs."""
        return len(self.words) + 1


class HashedFeature(_Frozen):
    """One-hot over the kept hash `buckets`, then OTHER for all other buckets and for missing."""

    type: Literal["hashed"] = "hashed"
    column: str
    num_buckets: int
    buckets: tuple[int, ...]

    @property
    def width(self) -> int:
        """Number of model inputs."""
        return len(self.buckets) + 1


Feature = Annotated[NumericFeature | VocabularyFeature | HashedFeature, Field(discriminator="type")]


class Transform(_Frozen):
    """The fitted preprocessing of one run. A public artifact: a function of charged releases."""

    version: Literal[1] = 1
    features: tuple[Feature, ...]
    missing_tokens: tuple[str, ...]

    @property
    def num_features(self) -> int:
        """Number of model inputs."""
        return sum(feature.width for feature in self.features)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads, in order."""
        return tuple(feature.column for feature in self.features)

    def encode(self, frame: pd.DataFrame) -> NDArray[np.float32]:
        """Returns model inputs, float32 (n, num_features), for records as text."""
        if not len(frame):
            return np.zeros((0, self.num_features), dtype=np.float32)
        parts = [_encode(feature, frame[feature.column], self.missing_tokens) for feature in self.features]
        return np.concatenate(parts, axis=1)


def _encode(feature: Feature, cells: pd.Series[str], missing_tokens: tuple[str, ...]) -> NDArray[np.float32]:
    if isinstance(feature, NumericFeature):
        return _encode_numbers(feature, cells, missing_tokens)
    missing = is_missing(cells, missing_tokens)
    text = normalize_cells(cells)
    if isinstance(feature, VocabularyFeature):
        position = {word: index for index, word in enumerate(feature.words)}
        known = text.map(lambda word: position.get(word, len(position)))
    else:
        place = {bucket: index for index, bucket in enumerate(feature.buckets)}
        known = text.map(lambda word: place.get(hash_bucket(word, feature.num_buckets), len(place)))
    index = np.where(missing, feature.width - 1, known.to_numpy(dtype=np.int64))
    return np.eye(feature.width, dtype=np.float32)[index]


def _encode_numbers(
    feature: NumericFeature, cells: pd.Series[str], missing_tokens: tuple[str, ...]
) -> NDArray[np.float32]:
    numbers = parse_numbers(cells)
    unusable = np.isnan(numbers) | is_missing(cells, missing_tokens)
    clipped = np.clip(numbers, feature.lower, feature.upper)
    scaled = np.where(unusable, 0.0, (clipped - feature.center) / feature.scale)
    return scaled.astype(np.float32)[:, np.newaxis]
