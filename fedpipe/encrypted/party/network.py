"""The model's dense part as a joint computation on shares."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Sequence

import tensorflow as tf
import tf_encrypted as tfe

from .runtime import INPUT, OUTPUT, WEIGHTS, stage, unstage

Layer = Dict[str, Any]
Step = Callable[[Any, Any], Any]


def take_weights(prot: Any, count: int) -> List[Any]:
    """Returns for each weight the parties' pairs, as tensors that stay where they are."""
    return [_unstage_everywhere(prot, WEIGHTS, tf.constant(number, tf.int64)) for number in range(count)]


def make_step(prot: Any, layers: Sequence[Layer], bucket: int, width: int, weights: Any) -> Step:
    """Returns the computation of `bucket` rows, traced: it takes staged inputs and stages outputs."""

    def step(key: Any, weights: Any) -> Any:
        # Inside the traced function: the nonces are counted while tracing and the keys drawn when it runs.
        # Without this, every call would use the same masks, and two calls would reveal differences.
        prot.reset()
        staged = _unstage_everywhere(prot, f"{INPUT}-{bucket}", key)
        rows = [[tf.ensure_shape(share, [bucket, width]) for share in pair] for pair in staged]
        output = _apply(prot, layers, weights, _private(prot, rows))
        for player, pair in zip(prot.servers, output.shares):
            with tf.device(player.device_name):
                stage(f"{OUTPUT}-{bucket}", key, [share.value for share in pair])
        return tf.constant(0)

    traced = tf.function(step, autograph=False)
    # Now, and not in the first run, which is bounded by a deadline of its own.
    traced.get_concrete_function(tf.constant(0, tf.int64), weights)
    compute: Step = traced
    return compute


def _unstage_everywhere(prot: Any, slot: str, key: Any) -> List[List[Any]]:
    pairs = []
    for player in prot.servers:
        with tf.device(player.device_name):
            pairs.append(list(unstage(slot, key)))
    return pairs


def _private(prot: Any, pairs: Sequence[Sequence[Any]]) -> Any:
    from tf_encrypted.protocol.aby3.aby3 import ShareType
    from tf_encrypted.protocol.aby3.aby3_tensors import ABY3PrivateTensor

    shares = []
    for player, pair in zip(prot.servers, pairs):
        with tf.device(player.device_name):
            shares.append([prot.default_factory.tensor(tf.identity(share), encode=False) for share in pair])
    return ABY3PrivateTensor(prot, shares, True, ShareType.ARITHMETIC)


def _apply(prot: Any, layers: Sequence[Layer], weights: Sequence[Any], rows: Any) -> Any:
    """Returns the last layer's value. A layer reads the values `inputs` by number; 0 is the rows."""
    values = [rows]
    for layer in layers:
        inputs = [values[number] for number in layer["inputs"]]
        owned = [_private(prot, weights[number]) for number in layer["weights"]]
        values.append(_LAYERS[layer["kind"]](layer, inputs, owned))
    return values[-1]


def _dense(layer: Layer, inputs: Sequence[Any], weights: Sequence[Any]) -> Any:
    return tfe.matmul(inputs[0], weights[0]) + weights[1]


def _relu(layer: Layer, inputs: Sequence[Any], weights: Sequence[Any]) -> Any:
    return tfe.relu(inputs[0])


def _add(layer: Layer, inputs: Sequence[Any], weights: Sequence[Any]) -> Any:
    return inputs[0] + inputs[1]


def _columns(layer: Layer, inputs: Sequence[Any], weights: Sequence[Any]) -> Any:
    parts = [inputs[0][:, start:stop] for start, stop in layer["ranges"]]
    return parts[0] if len(parts) == 1 else tfe.concat(parts, axis=1)


def _tanh(layer: Layer, inputs: Sequence[Any], weights: Sequence[Any]) -> Any:
    return tfe.polynomial_piecewise(inputs[0], layer["knots"], layer["coefficients"])


def _reshape(layer: Layer, inputs: Sequence[Any], weights: Sequence[Any]) -> Any:
    return inputs[0].reshape([int(inputs[0].shape[0]), *layer["shape"]])


def _conv2d(layer: Layer, inputs: Sequence[Any], weights: Sequence[Any]) -> Any:
    """tf-encrypted has the channels first, the wire format has them last."""
    pictures = tfe.transpose(inputs[0], perm=[0, 3, 1, 2])
    maps = tfe.conv2d(pictures, weights[0], tuple(layer["strides"]), layer["padding"])
    return tfe.transpose(maps, perm=[0, 2, 3, 1]) + weights[1]


def _max_pool2d(layer: Layer, inputs: Sequence[Any], weights: Sequence[Any]) -> Any:
    """The largest in each column of a window, then in the row of those: fewest comparisons at stride 1."""
    value = inputs[0]
    for axis in (1, 2):
        value = _max_along(value, axis, layer["size"][axis - 1], layer["strides"][axis - 1], layer["padding"])
    return value


def _max_along(value: Any, axis: int, size: int, stride: int, padding: str) -> Any:
    length = int(value.shape[axis])
    if padding == "SAME":
        # The edge stands in for what lies outside: it is in every window that reaches out.
        missing = max((-(-length // stride) - 1) * stride + size - length, 0)
        before, after = missing // 2, missing - missing // 2
        first, last = _along(value, axis, slice(0, 1)), _along(value, axis, slice(length - 1, length))
        if missing:
            value = tfe.concat([first] * before + [value] + [last] * after, axis=axis)
        length += missing
    stop = length - size + 1
    shifted = [_along(value, axis, slice(start, start + stop, stride)) for start in range(size)]
    largest = shifted[0]
    for other in shifted[1:]:
        largest = other + tfe.relu(largest - other)
    return largest


def _along(value: Any, axis: int, part: slice) -> Any:
    return value[tuple([slice(None)] * axis + [part])]


_LAYERS = {
    "dense": _dense,
    "relu": _relu,
    "add": _add,
    "columns": _columns,
    "tanh": _tanh,
    "reshape": _reshape,
    "conv2d": _conv2d,
    "max_pool2d": _max_pool2d,
}
