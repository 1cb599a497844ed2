"""A model version's published preprocessing: from cells of text to model inputs, with NumPy alone.

The specification is the version's `Transform` as JSON. Its numbers are those that clients trained on and
that the served model computes, because all of them follow `fedpipe.encoding`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedpipe.encoding.features import bucket_positions, ngram_inputs, scale_numbers, word_positions
from fedpipe.encoding.media import VECTOR_LIMIT, decode_images, parse_vectors
from fedpipe.encoding.text import normalize_text
from fedpipe.encrypted.members import member, members, number
from fedpipe.errors import EncryptedError

VERSION = 1
MAX_WIDTH = 1 << 22  # what a hostile specification may make us allocate for each row
MAX_NGRAMS = 8
_ROUNDING = 1e-6  # of float32 inputs, relative

Inputs = NDArray[np.float32]
Cells = Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One column's rule.

    Attributes:
      width: number of model inputs.
      lower: the least that any of its inputs can be.
      upper: the greatest.
      encode: from cells and missing tokens to inputs, float32 (n, width).
      is_number: whether its cells are numbers.
    """

    column: str
    width: int
    lower: float
    upper: float
    encode: Callable[[Cells, Cells], Inputs]
    is_number: bool = False


@dataclass(frozen=True, kw_only=True)
class PublishedTransform:
    """The rules of all columns, in the order of the model's inputs."""

    features: tuple[Feature, ...]
    missing_tokens: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads, in order."""
        return tuple(feature.column for feature in self.features)

    @property
    def num_features(self) -> int:
        """Number of model inputs."""
        return sum(feature.width for feature in self.features)

    def encode(self, columns: Mapping[str, Cells]) -> Inputs:
        """Returns model inputs, float32 (n, num_features), for columns of cells as text."""
        parts = [feature.encode(columns[feature.column], self.missing_tokens) for feature in self.features]
        return np.concatenate(parts, axis=1)

    def find_infinite(self, columns: Mapping[str, Cells]) -> tuple[str, int] | None:
        """Returns column and row of a cell that says NaN, infinity or a number beyond all bounds, if any.

        The transform would take such a cell for missing; whoever wrote it meant something else.
        """
        tokens = {normalize_text(token) for token in self.missing_tokens}
        for feature in self.features:
            if feature.is_number:
                for row, cell in enumerate(columns[feature.column]):
                    if _is_infinite(cell) and normalize_text(cell) not in tokens:
                        return feature.column, row
        return None

    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns the least and the greatest that each input can be, each float64 (num_features,)."""
        widths = [feature.width for feature in self.features]
        lower, upper = np.array([(feature.lower, feature.upper) for feature in self.features]).T
        return np.repeat(lower, widths), np.repeat(upper, widths)

    def rounded_bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns `bounds` with room for the rounding of float32 inputs.

        Operators prove for these, and clients check against them, that no product on shares overflows.
        """
        lower, upper = self.bounds()
        slack = _ROUNDING * np.maximum(np.abs(lower), np.abs(upper))
        return lower - slack, upper + slack


def read_transform(specification: object) -> PublishedTransform:
    """Returns the transform that JSON describes.

    Raises:
      EncryptedError: it makes no sense, or says what this version of fedpipe does not know.
    """
    known = member(specification, "version", int) == VERSION
    if not known or set(member({"it": specification}, "it", dict)) - {
        "version",
        "features",
        "missing_tokens",
    }:
        raise EncryptedError(f"Expected a transform of version {VERSION}, found another: update fedpipe.")
    transform = PublishedTransform(
        features=tuple(map(_read_feature, members(specification, "features", dict))),
        missing_tokens=members(specification, "missing_tokens", str),
    )
    _check(0 < transform.num_features <= MAX_WIDTH, "all columns")
    return transform


def _read_feature(entry: object) -> Feature:
    kind = member(entry, "type", str)
    if kind not in _READERS:
        raise EncryptedError(
            f"Expected features of the types {', '.join(_READERS)}, found another: update fedpipe."
        )
    feature = _READERS[kind](entry, member(entry, "column", str))
    _check(0 < feature.width <= MAX_WIDTH, feature.column)
    return feature


def _numeric(entry: object, column: str) -> Feature:
    """(clip(x, lower, upper) - center) / scale; 0 where x is missing or malformed."""
    lower, upper, center, scale = (number(entry, name) for name in ("lower", "upper", "center", "scale"))
    _check(lower < upper and scale > 0, column)

    def encode(cells: Cells, missing_tokens: Cells) -> Inputs:
        scaled = scale_numbers(cells, missing_tokens, lower=lower, upper=upper, center=center, scale=scale)
        return scaled[:, np.newaxis]

    ends = ((lower - center) / scale, (upper - center) / scale, 0.0)
    return Feature(column=column, width=1, lower=min(ends), upper=max(ends), encode=encode, is_number=True)


def _vocabulary(entry: object, column: str) -> Feature:
    """One-hot over `words`, then OTHER for anything else, missing included."""
    words = members(entry, "words", str)

    def encode(cells: Cells, missing_tokens: Cells) -> Inputs:
        return _one_hot(word_positions(cells, missing_tokens, words), len(words) + 1)

    return Feature(column=column, width=len(words) + 1, lower=0, upper=1, encode=encode)


def _hashed(entry: object, column: str) -> Feature:
    """One-hot over the kept hash `buckets`, then OTHER for all other buckets and for missing."""
    num_buckets, buckets = member(entry, "num_buckets", int), members(entry, "buckets", int)
    _check(num_buckets > 0, column)

    def encode(cells: Cells, missing_tokens: Cells) -> Inputs:
        return _one_hot(bucket_positions(cells, missing_tokens, num_buckets, buckets), len(buckets) + 1)

    return Feature(column=column, width=len(buckets) + 1, lower=0, upper=1, encode=encode)


def _text(entry: object, column: str) -> Feature:
    """Which hashed n-grams of up to `ngrams` words occur, scaled to unit length; zeros where missing."""
    num_buckets, longest = member(entry, "num_buckets", int), member(entry, "ngrams", int)
    _check(0 < longest <= MAX_NGRAMS, column)

    def encode(cells: Cells, missing_tokens: Cells) -> Inputs:
        return ngram_inputs(cells, missing_tokens, num_buckets, longest)

    return Feature(column=column, width=num_buckets, lower=0, upper=1, encode=encode)


def _vector(entry: object, column: str) -> Feature:
    """The numbers of a vector, clipped; zeros where missing or malformed."""
    size = member(entry, "size", int)

    def encode(cells: Cells, missing_tokens: Cells) -> Inputs:
        return parse_vectors(cells, size)[0]

    return Feature(column=column, width=size, lower=-VECTOR_LIMIT, upper=VECTOR_LIMIT, encode=encode)


def _image(entry: object, column: str) -> Feature:
    """Pixels in [0, 1], row by row; zeros where missing or malformed."""
    shape = members(entry, "shape", int)
    _check(len(shape) == 3 and min(shape) > 0, column)
    width = math.prod(shape)

    def encode(cells: Cells, missing_tokens: Cells) -> Inputs:
        return decode_images(cells, width)

    return Feature(column=column, width=width, lower=0, upper=1, encode=encode)


_READERS: dict[str, Callable[[object, str], Feature]] = {
    "numeric": _numeric,
    "vocabulary": _vocabulary,
    "hashed": _hashed,
    "text": _text,
    "vector": _vector,
    "image": _image,
}


def _check(usable: bool, where: str) -> None:
    if not usable:
        raise EncryptedError(
            f"Expected a usable transform, found a rule for {where} that makes no sense: ask the operator."
        )


def _is_infinite(cell: str) -> bool:
    try:
        return not math.isfinite(float(cell))
    except ValueError:
        return False


def _one_hot(positions: NDArray[np.int64], width: int) -> Inputs:
    encoded = np.zeros((len(positions), width), dtype=np.float32)
    encoded[np.arange(len(positions)), positions] = 1
    return encoded
