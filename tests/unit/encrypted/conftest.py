"""What three parties compute, on words of 64 bits, in one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedpipe.encrypted.dense import DensePart, windows
from fedpipe.encrypted.shares import FRACTIONAL_BITS, decode_fixed, encode_fixed

Words = NDArray[np.int64]
Floats = NDArray[np.float64]


class FixedPoint:
    """The layers on fixed-point words. After a product, 16 bits are cut off and the last one is random:

    what is cut off decides how likely it is to be rounded up, as in the parties' protocol.
    """

    def __init__(self, part: DensePart, seed: int) -> None:
        self._part = part
        self._generator = np.random.default_rng(seed)

    def logits(self, inputs: NDArray[Any]) -> Floats:
        values = [encode_fixed(inputs, max_magnitude=1e6)]
        for layer in self._part.layers:
            weights = [
                encode_fixed(self._part.weights[number], max_magnitude=1e6) for number in layer["weights"]
            ]
            rule: Callable[..., Words] = getattr(self, layer["kind"])
            values.append(rule(layer, [values[number] for number in layer["inputs"]], weights))
        return decode_fixed(values[-1])

    def cut(self, product: Words) -> Words:
        assert np.abs(product.astype(np.float64)).max() < 2**62
        carry = self._generator.integers(0, 1 << FRACTIONAL_BITS, product.shape)
        return (product + carry) >> FRACTIONAL_BITS

    def dense(self, layer: Any, values: Sequence[Words], weights: Sequence[Words]) -> Words:
        return self.cut(values[0] @ weights[0]) + weights[1]

    def conv2d(self, layer: Any, values: Sequence[Words], weights: Sequence[Words]) -> Words:
        kernel, bias = weights
        patches = windows(values[0], kernel.shape[:2], layer["strides"], layer["padding"], 0)
        n, rows, columns = patches.shape[:3]
        flat = patches.reshape(n * rows * columns, -1)
        products = flat @ kernel.transpose(2, 0, 1, 3).reshape(flat.shape[1], -1)
        return self.cut(products).reshape(n, rows, columns, -1) + bias

    def max_pool2d(self, layer: Any, values: Sequence[Words], weights: Sequence[Words]) -> Words:
        least = np.iinfo(np.int64).min
        return windows(values[0], layer["size"], layer["strides"], layer["padding"], least).max((4, 5))

    def tanh(self, layer: Any, values: Sequence[Words], weights: Sequence[Words]) -> Words:
        x = values[0]
        powers = [np.full_like(x, 1 << FRACTIONAL_BITS), x]
        while len(powers) < len(layer["coefficients"][0]):
            powers.append(self.cut(powers[-1] * x))
        pieces = encode_fixed(layer["coefficients"], max_magnitude=1e6)
        chosen = pieces[np.searchsorted(encode_fixed(layer["knots"], max_magnitude=1e6), x)]
        return sum((self.cut(chosen[..., i] * power) for i, power in enumerate(powers)), np.zeros_like(x))

    def relu(self, layer: Any, values: Sequence[Words], weights: Sequence[Words]) -> Words:
        return np.maximum(values[0], 0)

    def add(self, layer: Any, values: Sequence[Words], weights: Sequence[Words]) -> Words:
        return values[0] + values[1]

    def columns(self, layer: Any, values: Sequence[Words], weights: Sequence[Words]) -> Words:
        return np.concatenate([values[0][:, start:stop] for start, stop in layer["ranges"]], axis=1)

    def reshape(self, layer: Any, values: Sequence[Words], weights: Sequence[Words]) -> Words:
        return values[0].reshape(-1, *layer["shape"])


@pytest.fixture
def fixed_point_logits() -> Callable[[DensePart, NDArray[Any]], Floats]:
    return lambda part, inputs: FixedPoint(part, seed=7).logits(inputs)
