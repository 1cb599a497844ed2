"""The rule of each layer: from one call's inputs and deltas to the contributions to its variables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fedpipe.learning.rules.contributions import (
    Contribution,
    Identity,
    Outer,
    PerExample,
    Rows,
    matrix_over_positions,
)
from fedpipe.learning.tensorflow_runtime import tf

layers = tf.keras.layers

WIDE = 128  # numbers that a position of a convolution sees


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """One call of a layer.

    Attributes:
      layer: who was called; inputs: float32 (n, ...), what with.
      delta: float32 (n, ...), the loss's gradient by what came out, before any activation.
    """

    layer: Any
    inputs: tf.Tensor
    delta: tf.Tensor


# The variable, and one call's part of its gradient.
Parts = list[tuple[tf.Variable, Contribution]]


def has_rule(layer: Any) -> bool:
    """Returns whether `layer` is of a kind and in a setting that a rule is for.

    A subclass may compute anything: only the very classes count.
    """
    test = _SETTINGS.get(type(layer))
    return test is not None and test(layer)


def contributions(call: Call) -> Parts:
    """Returns what one call of a layer that `has_rule` contributes, by variable."""
    return _RULES[type(call.layer)](call)


def _dense(call: Call) -> Parts:
    layer, a, d = call.layer, call.inputs, call.delta
    if len(a.shape) == 2:
        return [(layer.kernel, Outer(a=a, d=d)), *_bias(layer, d)]
    a, d = _positions(a), _positions(d)
    return [(layer.kernel, matrix_over_positions(a, d)), *_bias(layer, d)]


def _bias(layer: Any, d: tf.Tensor) -> Parts:
    if not layer.use_bias:
        return []
    return [(layer.bias, Identity(d=d if len(d.shape) == 2 else tf.reduce_sum(d, axis=1)))]


def _positions(values: tf.Tensor) -> tf.Tensor:
    """Returns (n, ..., width) as (n, positions, width)."""
    count = math.prod(values.shape[1:-1])
    return tf.reshape(values, [-1, count, values.shape[-1]])


def _convolution(call: Call) -> Parts:
    """A convolution is a matrix used at every position of a picture, on the patch around it."""
    layer, inputs, delta = call.layer, call.inputs, call.delta
    size, strides, rates = layer.kernel_size, layer.strides, layer.dilation_rate
    padding = layer.padding.upper()
    if layer.rank == 1:
        if padding == "CAUSAL":
            inputs = tf.pad(inputs, [[0, 0], [rates[0] * (size[0] - 1), 0], [0, 0]])
            padding = "VALID"
        inputs, delta = inputs[:, tf.newaxis], delta[:, tf.newaxis]
        size, strides, rates = (1, *size), (1, *strides), (1, *rates)
    patches = _patches(inputs, size, strides, rates, padding)
    d = _positions(delta)
    return [(layer.kernel, matrix_over_positions(_positions(patches), d)), *_bias(layer, d)]


def _patches(
    inputs: tf.Tensor, size: Sequence[int], strides: Sequence[int], rates: Sequence[int], padding: str
) -> tf.Tensor:
    """Returns what each position of a convolution sees: (n, height, width, fan_in), in the kernel's order."""
    fan_in = math.prod(size) * inputs.shape[3]
    if fan_in > WIDE:
        return tf.image.extract_patches(inputs, [1, *size, 1], [1, *strides, 1], [1, *rates, 1], padding)
    # A convolution that copies: 3 to 15 times faster, though its work grows with the square of fan_in.
    kernel = tf.reshape(tf.eye(fan_in), [*size, inputs.shape[3], fan_in])
    return tf.nn.conv2d(inputs, kernel, strides, padding, dilations=rates)


def _embedding(call: Call) -> Parts:
    layer, d = call.layer, call.delta
    count = math.prod(call.inputs.shape[1:])
    ids = tf.reshape(tf.cast(call.inputs, tf.int32), [-1, count])
    d = tf.reshape(d, [-1, count, d.shape[-1]])
    return [(layer.embeddings, Rows(ids=ids, d=d, num_rows=layer.input_dim))]


def _layer_normalization(call: Call) -> Parts:
    layer, inputs = call.layer, call.inputs
    axes = [axis % len(inputs.shape) for axis in layer.axis]
    mean, variance = tf.nn.moments(inputs, axes, keepdims=True)
    return _scale_and_shift(call, (inputs - mean) * tf.math.rsqrt(variance + layer.epsilon), axes)


def _group_normalization(call: Call) -> Parts:
    layer, inputs = call.layer, call.inputs
    channels = inputs.shape[-1]
    groups = channels if layer.groups == -1 else layer.groups
    count = math.prod(inputs.shape[1:-1])
    grouped = tf.reshape(inputs, [-1, count, groups, channels // groups])
    mean, variance = tf.nn.moments(grouped, [1, 3], keepdims=True)
    normal = (grouped - mean) * tf.math.rsqrt(variance + layer.epsilon)
    shape = [-1, *inputs.shape[1:]]
    return _scale_and_shift(call, tf.reshape(normal, shape), [len(inputs.shape) - 1])


def _scale_and_shift(call: Call, normal: tf.Tensor, axes: list[int]) -> Parts:
    """Gamma * normal + beta, along `axes`; what other axes there are adds up."""
    layer, d = call.layer, call.delta
    others = [axis for axis in range(1, len(d.shape)) if axis not in axes]
    size = math.prod(d.shape[axis] for axis in axes)

    def along_axes(values: tf.Tensor) -> PerExample:
        return PerExample(lambda: tf.reshape(tf.reduce_sum(values, axis=others), [-1, size]))

    parts: Parts = []
    if layer.scale:
        parts.append((layer.gamma, along_axes(normal * d)))
    if layer.center:
        parts.append((layer.beta, along_axes(d)))
    return parts


def _einsum_dense(call: Call) -> Parts:
    layer, d = call.layer, call.delta
    inputs, kernel, outputs = _einsum_labels(layer)
    batch = inputs[0]
    parts: Parts = [
        (
            layer.kernel,
            PerExample(
                lambda: tf.reshape(
                    tf.einsum(f"{inputs},{outputs}->{batch}{kernel}", call.inputs, d),
                    [-1, math.prod(layer.kernel.shape)],
                )
            ),
        )
    ]
    if layer.bias is not None:
        kept = [axis for axis, label in enumerate(outputs) if label in (layer.bias_axes or "")]
        others = [axis for axis in range(1, len(outputs)) if axis not in kept]
        size = math.prod(layer.bias.shape)
        parts.append((layer.bias, Identity(d=tf.reshape(tf.reduce_sum(d, axis=others), [-1, size]))))
    return parts


def _einsum_labels(layer: Any) -> tuple[str, str, str]:
    operands, _, outputs = layer.equation.replace(" ", "").partition("->")
    inputs, _, kernel = operands.partition(",")
    return inputs, kernel, outputs


def _is_plain_convolution(layer: Any) -> bool:
    return bool(layer.groups == 1 and layer.data_format == "channels_last")


def _normalizes_last_axes(layer: Any) -> bool:
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    # Weights lie along the axes in their order, and the first axis is the batch's.
    return axes == sorted(axes) and 0 not in axes


def _is_plain_einsum(layer: Any) -> bool:
    inputs, kernel, outputs = _einsum_labels(layer)
    plain = all(label.isalpha() for label in inputs + kernel + outputs)
    return plain and inputs[:1] == outputs[:1] and inputs[:1] not in kernel


_RULES: dict[type, Callable[[Call], Parts]] = {
    layers.Dense: _dense,
    layers.Conv1D: _convolution,
    layers.Conv2D: _convolution,
    layers.Embedding: _embedding,
    layers.LayerNormalization: _layer_normalization,
    layers.GroupNormalization: _group_normalization,
    layers.EinsumDense: _einsum_dense,
}
_SETTINGS: dict[type, Callable[[Any], bool]] = {
    layers.Dense: lambda _: True,
    layers.Conv1D: _is_plain_convolution,
    layers.Conv2D: _is_plain_convolution,
    layers.Embedding: lambda _: True,
    layers.LayerNormalization: _normalizes_last_axes,
    layers.GroupNormalization: lambda layer: layer.axis == -1,
    layers.EinsumDense: _is_plain_einsum,
}
