"""A model's dense part: what is computed on shares, after preprocessing and before the activation.

Layers form a graph. Value 0 is the rows, (n, input_width); layer i makes value i + 1 from the values
`inputs` and the arrays `weights`, by number. The last value is the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpipe.encrypted.tanh import COEFFICIENTS, KNOTS

Floats = NDArray[np.float64]
Layer = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class DensePart:
    """Layers and their weights, float64, which are the model owner's secret and not shown by repr.

    Kinds of layers, with their settings and weights:
      dense: kernel (inputs, units), bias (1, units).
      columns: `ranges`, pairs [start, stop): those columns side by side.
      add: the sum of two values.
      relu.
      tanh: `knots` and `coefficients` of the piecewise polynomial that is computed in its place.
      reshape: `shape` of one row, without the rows.
      conv2d: `strides`, `padding` SAME (zeros) or VALID; kernel (height, width, in, out) and bias
        (1, 1, 1, out).
      max_pool2d: `size`, `strides`, `padding`; what lies outside never counts.
    """

    layers: tuple[Layer, ...]
    weights: tuple[Floats, ...]
    input_width: int

    def __repr__(self) -> str:
        return f"DensePart({len(self.layers)} layers on {self.input_width} inputs)"

    @property
    def num_outputs(self) -> int:
        """Number of logits."""
        return self.weights[-1].shape[-1]


class Builder:
    """Collects layers."""

    def __init__(self) -> None:
        self._layers: list[Layer] = []
        self._weights: list[Floats] = []

    def add(self, kind: str, *inputs: int, weights: Sequence[NDArray[Any]] = (), **settings: Any) -> int:
        """Appends a layer; returns the number of its value."""
        numbers = list(range(len(self._weights), len(self._weights) + len(weights)))
        self._weights += [np.asarray(weight, dtype=np.float64) for weight in weights]
        self._layers.append({"kind": kind, "inputs": list(inputs), "weights": numbers, **settings})
        return len(self._layers)

    def add_tanh(self, value: int) -> int:
        """Appends a hyperbolic tangent with its approximation."""
        return self.add("tanh", value, knots=list(KNOTS), coefficients=[list(each) for each in COEFFICIENTS])

    def build(self, input_width: int) -> DensePart:
        """Returns the dense part."""
        return DensePart(layers=tuple(self._layers), weights=tuple(self._weights), input_width=input_width)


def evaluate(part: DensePart, inputs: NDArray[Any]) -> Floats:
    """Returns the logits for model inputs, float64 (n, num_outputs): what the parties approximate."""
    values: list[Floats] = [np.asarray(inputs, dtype=np.float64)]
    for layer in part.layers:
        weights = [part.weights[number] for number in layer["weights"]]
        values.append(_RULES[layer["kind"]](layer, [values[number] for number in layer["inputs"]], weights))
    return values[-1]


def windows(values: Floats, size: Sequence[int], strides: Sequence[int], padding: str, fill: float) -> Floats:
    """Returns the windows of pictures (n, h, w, c): (n, rows, columns, c, height, width).

    SAME adds as little as TensorFlow does, the odd row or column at the end.
    """
    if padding == "SAME":
        sides = [_same(values.shape[1 + axis], size[axis], strides[axis]) for axis in (0, 1)]
        values = np.pad(values, [(0, 0), *sides, (0, 0)], constant_values=fill)
    view: Any = np.lib.stride_tricks.sliding_window_view  # its types know one axis only
    found: Floats = view(values, tuple(size), axis=(1, 2))
    return found[:, :: strides[0], :: strides[1]]


def _same(length: int, size: int, stride: int) -> tuple[int, int]:
    missing = max((-(-length // stride) - 1) * stride + size - length, 0)
    return missing // 2, missing - missing // 2


def _dense(layer: Layer, values: Sequence[Floats], weights: Sequence[Floats]) -> Floats:
    return values[0] @ weights[0] + weights[1]


def _columns(layer: Layer, values: Sequence[Floats], weights: Sequence[Floats]) -> Floats:
    return np.concatenate([values[0][:, start:stop] for start, stop in layer["ranges"]], axis=1)


def _add(layer: Layer, values: Sequence[Floats], weights: Sequence[Floats]) -> Floats:
    return values[0] + values[1]


def _relu(layer: Layer, values: Sequence[Floats], weights: Sequence[Floats]) -> Floats:
    return np.maximum(values[0], 0.0)


def _tanh(layer: Layer, values: Sequence[Floats], weights: Sequence[Floats]) -> Floats:
    bounded: Floats = np.tanh(values[0])
    return bounded


def _reshape(layer: Layer, values: Sequence[Floats], weights: Sequence[Floats]) -> Floats:
    return values[0].reshape(-1, *layer["shape"])


def _conv2d(layer: Layer, values: Sequence[Floats], weights: Sequence[Floats]) -> Floats:
    kernel, bias = weights
    patches = windows(values[0], kernel.shape[:2], layer["strides"], layer["padding"], 0.0)
    return np.tensordot(patches, kernel.transpose(2, 0, 1, 3), axes=3) + bias


def _max_pool2d(layer: Layer, values: Sequence[Floats], weights: Sequence[Floats]) -> Floats:
    found: Floats = windows(values[0], layer["size"], layer["strides"], layer["padding"], -np.inf).max((4, 5))
    return found


_RULES: dict[str, Callable[[Layer, Sequence[Floats], Sequence[Floats]], Floats]] = {
    "dense": _dense,
    "columns": _columns,
    "add": _add,
    "relu": _relu,
    "tanh": _tanh,
    "reshape": _reshape,
    "conv2d": _conv2d,
    "max_pool2d": _max_pool2d,
}
