"""A model's weights as one vector: what travels, what is clipped, what is averaged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedpipe.errors import DataError

Vector = NDArray[np.float32]


def flatten(arrays: Sequence[NDArray[np.float32]]) -> Vector:
    """Returns all `arrays`, in order, as float32 (num_parameters,)."""
    return np.concatenate([np.asarray(array, dtype=np.float32).ravel() for array in arrays])


def unflatten(vector: Vector, shapes: Sequence[tuple[int, ...]]) -> list[NDArray[np.float32]]:
    """Returns the arrays of `shapes` that `flatten` joined.

    Raises:
      DataError: if the sizes do not add up.
    """
    sizes = [int(np.prod(shape)) for shape in shapes]
    if sum(sizes) != vector.size:
        raise DataError(
            f"Expected a vector of {sum(sizes)} parameters, found {vector.size}: it belongs to another model."
        )
    parts = np.split(vector, np.cumsum(sizes)[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
