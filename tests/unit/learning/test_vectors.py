"""Weights as one vector and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpipe.errors import DataError
from fedpipe.learning.vectors import flatten, unflatten

SHAPES = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple), min_size=1, max_size=5)


def test_arrays_are_joined_row_by_row_in_order() -> None:
    vector = flatten([np.array([[1, 2], [3, 4]], np.float32), np.array([5], np.float32)])
    assert vector.tolist() == [1, 2, 3, 4, 5]
    assert vector.dtype == np.float32


@given(SHAPES)
def test_round_trip(shapes: list[tuple[int, ...]]) -> None:
    generator = np.random.default_rng(0)
    arrays = [generator.normal(size=shape).astype(np.float32) for shape in shapes]
    back = unflatten(flatten(arrays), shapes)
    assert [array.shape for array in back] == shapes
    for array, original in zip(back, arrays, strict=True):
        np.testing.assert_array_equal(array, original)


@pytest.mark.parametrize("size", [0, 5, 7])
def test_wrong_size_is_refused(size: int) -> None:
    with pytest.raises(DataError, match=f"Expected a vector of 6 parameters, found {size}"):
        unflatten(np.zeros(size, np.float32), [(2, 2), (2,)])
