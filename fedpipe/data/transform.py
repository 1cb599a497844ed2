"""From cells to model inputs: fitted on noisy counts, the same at clients and in the served model."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from fedpipe.encoding.features import bucket_positions, ngram_inputs, scale_numbers, word_positions
from fedpipe.encoding.media import decode_images, parse_vectors
from fedpipe.errors import DataError

Items = TypeVar("Items", bound=tuple[Any, ...])


def _check_distinct(items: Items) -> Items:
    if len(set(items)) < len(items):
        raise ValueError("expected distinct values")
    return items


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class NumericFeature(_Frozen):
    """(clip(x, lower, upper) - center) / scale; 0 where x is missing or malformed."""

    type: Literal["numeric"] = "numeric"
    column: str
    lower: float
    upper: float
    center: float
    scale: float = Field(gt=0)

    @model_validator(mode="after")
    def _check_range(self) -> NumericFeature:
        if self.lower >= self.upper:
            raise ValueError(f"expected lower < upper, found {self.lower:g} and {self.upper:g}")
        return self

    @property
    def width(self) -> int:
        """Number of model inputs."""
        return 1


class VocabularyFeature(_Frozen):
    """One-hot over `words` (normalised), then OTHER for anything else, missing included."""

    type: Literal["vocabulary"] = "vocabulary"
    column: str
    words: Annotated[tuple[str, ...], AfterValidator(_check_distinct)]

    @property
    def width(self) -> int:
        """Number of model inputs."""
        return len(self.words) + 1


class HashedFeature(_Frozen):
    """One-hot over the kept hash `buckets`, then OTHER for all other buckets and for missing."""

    type: Literal["hashed"] = "hashed"
    column: str
    num_buckets: int = Field(ge=1)
    buckets: Annotated[tuple[int, ...], AfterValidator(_check_distinct)]

    @property
    def width(self) -> int:
        """Number of model inputs."""
        return len(self.buckets) + 1


class TextFeature(_Frozen):
    """Which hashed n-grams of up to `ngrams` words occur, scaled to unit length; zeros where missing."""

    type: Literal["text"] = "text"
    column: str
    num_buckets: int = Field(ge=1)
    ngrams: int = Field(ge=1)

    @property
    def width(self) -> int:
        """Number of model inputs."""
        return self.num_buckets


class VectorFeature(_Frozen):
    """The numbers of a vector, clipped to [-10, 10]; zeros where missing or malformed."""

    type: Literal["vector"] = "vector"
    column: str
    size: int = Field(ge=1)

    @property
    def width(self) -> int:
        """Number of model inputs."""
        return self.size


class ImageFeature(_Frozen):
    """Pixels in [0, 1], row by row; zeros where missing or malformed."""

    type: Literal["image"] = "image"
    column: str
    shape: tuple[int, int, int]

    @property
    def width(self) -> int:
        """Number of model inputs."""
        return self.shape[0] * self.shape[1] * self.shape[2]


Feature = Annotated[
    NumericFeature | VocabularyFeature | HashedFeature | TextFeature | VectorFeature | ImageFeature,
    Field(discriminator="type"),
]


class InputGroup(_Frozen):
    """A run of model inputs of one kind; `shape` is (width,) or a picture's."""

    kind: Literal["tabular", "text", "image"]
    shape: tuple[int, ...]

    @property
    def width(self) -> int:
        """Number of model inputs."""
        return math.prod(self.shape)


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
    def groups(self) -> tuple[InputGroup, ...]:
        """The model inputs in order, as runs of one kind."""
        groups: list[InputGroup] = []
        for feature in self.features:
            group = _group(feature)
            if groups and group.kind == groups[-1].kind == "tabular":
                group = InputGroup(kind="tabular", shape=(groups.pop().width + group.width,))
            groups.append(group)
        return tuple(groups)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads, in order."""
        return tuple(feature.column for feature in self.features)

    def category(self, column: str) -> VocabularyFeature | HashedFeature:
        """Returns the categories that are known of `column`.

        Raises:
          DataError: it has none.
        """
        for feature in self.features:
            if feature.column == column and isinstance(feature, (VocabularyFeature, HashedFeature)):
                return feature
        raise DataError(f"Expected a categorical column, found {column!r}: see analyze.slices.")

    def encode(self, frame: pd.DataFrame) -> NDArray[np.float32]:
        """Returns model inputs, float32 (n, num_features), for records as text.

        Raises:
          DataError: if `frame` lacks a column.
        """
        encoded = np.zeros((len(frame), self.num_features), dtype=np.float32)
        self.encode_into(frame, encoded)
        return encoded

    def encode_into(self, frame: pd.DataFrame, room: NDArray[np.float32]) -> None:
        """Fills `room`, zeros (n, num_features), with what `encode` returns; raises as it does."""
        self.check_columns(frame.columns)
        start = 0
        for feature in self.features:
            block = room[:, start : start + feature.width]
            _encode(feature, frame[feature.column], self.missing_tokens, block)
            start += feature.width

    def check_columns(self, names: Collection[str]) -> None:
        """Raises DataError if a column that it reads is not among `names`."""
        absent = [name for name in self.columns if name not in names]
        if absent:
            raise DataError(
                f"Expected a column {absent[0]!r}, found none: the schema is not the transform's."
            )


def _group(feature: Feature) -> InputGroup:
    match feature:
        case TextFeature() | VectorFeature():
            return InputGroup(kind="text", shape=(feature.width,))
        case ImageFeature():
            return InputGroup(kind="image", shape=feature.shape)
    return InputGroup(kind="tabular", shape=(feature.width,))


def _encode(
    feature: Feature, cells: pd.Series[str], missing_tokens: tuple[str, ...], block: NDArray[np.float32]
) -> None:
    """Fills `block`, zeros (n, width), with the model inputs of `cells`."""
    texts = cells.tolist()
    match feature:
        case NumericFeature():
            block[:, 0] = scale_numbers(
                texts,
                missing_tokens,
                lower=feature.lower,
                upper=feature.upper,
                center=feature.center,
                scale=feature.scale,
            )
        case TextFeature():
            if any(texts):  # many exports have no narratives at all
                block[:] = ngram_inputs(texts, missing_tokens, feature.num_buckets, feature.ngrams)
        case VectorFeature():
            block[:] = parse_vectors(texts, feature.size)[0]
        case ImageFeature():
            block[:] = decode_images(texts, feature.width)
        case _:
            block[np.arange(len(texts)), category_positions(feature, cells, missing_tokens)] = 1


def category_positions(
    feature: VocabularyFeature | HashedFeature, cells: pd.Series[str], missing_tokens: tuple[str, ...]
) -> NDArray[np.int64]:
    """Returns the category of every cell, int64 (n,) in [0, feature.width); the last is OTHER."""
    if isinstance(feature, VocabularyFeature):
        return word_positions(cells.tolist(), missing_tokens, feature.words)
    return bucket_positions(cells.tolist(), missing_tokens, feature.num_buckets, feature.buckets)
