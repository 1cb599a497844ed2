"""How large numbers can get on the way through a model, for every row that its transform can make."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedpipe.encrypted.dense import DensePart, Layer
from fedpipe.encrypted.shares import PRODUCT_LIMIT
from fedpipe.errors import EncryptedError

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Bounds of a value's entries, of the shape of one row."""

    lower: Floats
    upper: Floats

    @property
    def magnitude(self) -> Floats:
        """The largest absolute value of each entry."""
        return np.maximum(np.abs(self.lower), np.abs(self.upper))


def bound_logits(part: DensePart, lower: Floats, upper: Floats) -> float:
    """Returns a power of two that no logit exceeds, for inputs within bounds (input_width,).

    A power of two, since it is published, and finer bounds would tell more about the weights.

    Raises:
      EncryptedError: some product could overflow, which nobody would notice.
    """
    values = [Interval(lower=lower, upper=upper)]
    for layer in part.layers:
        weights = [part.weights[number] for number in layer["weights"]]
        values.append(_RULES[layer["kind"]](layer, [values[number] for number in layer["inputs"]], weights))
        _check(float(values[-1].magnitude.max()), layer["kind"])
    largest = float(values[-1].magnitude.max())
    return 2.0 ** math.ceil(math.log2(max(largest, 1.0)))


def _check(largest: float, kind: str) -> None:
    if not largest < PRODUCT_LIMIT:
        raise EncryptedError(
            f"Expected a model whose products stay below 2^30, found a {kind} layer that can reach "
            f"{largest:.3g}: train with a narrower declared range or a stronger clipping norm."
        )


def _dense(layer: Layer, values: list[Interval], weights: list[Floats]) -> Interval:
    kernel, bias = weights
    # Sums of products are cut back once, so all their absolute values count.
    _check(float((values[0].magnitude @ np.abs(kernel) + np.abs(bias)).max()), "dense")
    positive, negative = np.maximum(kernel, 0), np.minimum(kernel, 0)
    return Interval(
        lower=(values[0].lower @ positive + values[0].upper @ negative + bias)[0],
        upper=(values[0].upper @ positive + values[0].lower @ negative + bias)[0],
    )


def _conv2d(layer: Layer, values: list[Interval], weights: list[Floats]) -> Interval:
    """Bounds each channel by its weights' absolute sum: padding and position do not matter."""
    kernel, bias = weights
    reach = values[0].magnitude.max((0, 1)) @ np.abs(kernel).sum((0, 1)) + np.abs(bias[0, 0, 0])
    shape = [
        -(-side // stride) for side, stride in zip(values[0].lower.shape, layer["strides"], strict=False)
    ]
    bound = np.broadcast_to(reach, (*shape, len(reach)))
    return Interval(lower=-bound, upper=bound)


def _max_pool2d(layer: Layer, values: list[Interval], weights: list[Floats]) -> Interval:
    """Bounds each channel by its extremes anywhere, over the picture's old size or less."""
    rows, columns = (
        -(-(side - (0 if layer["padding"] == "SAME" else size - 1)) // stride)
        for side, size, stride in zip(values[0].lower.shape[:2], layer["size"], layer["strides"], strict=True)
    )
    shape = (rows, columns, values[0].lower.shape[2])
    return Interval(
        lower=np.broadcast_to(values[0].lower.min((0, 1)), shape),
        upper=np.broadcast_to(values[0].upper.max((0, 1)), shape),
    )


def _tanh(layer: Layer, values: list[Interval], weights: list[Floats]) -> Interval:
    # Every power of every input is computed, whichever piece it falls into.
    degree = max(len(piece) for piece in layer["coefficients"]) - 1
    _check(float(values[0].magnitude.max()) ** degree, "tanh")
    return Interval(lower=-np.ones_like(values[0].lower), upper=np.ones_like(values[0].upper))


def _columns(layer: Layer, values: list[Interval], weights: list[Floats]) -> Interval:
    chosen = np.concatenate([np.arange(start, stop) for start, stop in layer["ranges"]])
    return Interval(lower=values[0].lower[chosen], upper=values[0].upper[chosen])


def _add(layer: Layer, values: list[Interval], weights: list[Floats]) -> Interval:
    return Interval(lower=values[0].lower + values[1].lower, upper=values[0].upper + values[1].upper)


def _relu(layer: Layer, values: list[Interval], weights: list[Floats]) -> Interval:
    return Interval(lower=np.maximum(values[0].lower, 0), upper=np.maximum(values[0].upper, 0))


def _reshape(layer: Layer, values: list[Interval], weights: list[Floats]) -> Interval:
    shape = layer["shape"]
    return Interval(lower=values[0].lower.reshape(shape), upper=values[0].upper.reshape(shape))


_RULES: dict[str, Callable[[Layer, list[Interval], list[Floats]], Interval]] = {
    "dense": _dense,
    "conv2d": _conv2d,
    "max_pool2d": _max_pool2d,
    "tanh": _tanh,
    "columns": _columns,
    "add": _add,
    "relu": _relu,
    "reshape": _reshape,
}
