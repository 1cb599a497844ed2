"""A model whose layers tell what came in, and let a tape watch what came out."""

from __future__ import annotations

import functools
from typing import Any

from fedpipe.learning.losses import per_example_loss
from fedpipe.learning.rules import Call, has_rule
from fedpipe.learning.tensorflow_runtime import tf


def ruled_layers(model: tf.keras.Model) -> list[Any]:
    """Returns the layers with weights and a rule, at any depth, in the model's order."""
    found = [layer for layer in model.submodules if isinstance(layer, tf.keras.layers.Layer)]
    return [layer for layer in found if has_rule(layer) and layer.trainable_weights]


class TappedModel:
    """Takes `model` over: it can no longer be saved or called elsewhere."""

    def __init__(self, model: tf.keras.Model) -> None:
        self._model = model
        self._tape: tf.GradientTape | None = None
        self._seen: list[tuple[Any, tf.Tensor, tf.Tensor]] = []
        for layer in ruled_layers(model):
            _tap(layer, self._watch)

    def backward(self, features: tf.Tensor, labels: tf.Tensor, example_weights: tf.Tensor) -> list[Call]:
        """Returns every call of a ruled layer, from one forward and one backward pass."""
        self._seen = []
        with tf.GradientTape(watch_accessed_variables=False) as self._tape:
            loss = tf.reduce_sum(example_weights * per_example_loss(labels, self._model(features)))
        outputs = [output for _, _, output in self._seen]
        deltas = self._tape.gradient(loss, outputs, unconnected_gradients="zero")
        self._tape = None
        return [
            Call(layer=layer, inputs=inputs, delta=delta)
            for (layer, inputs, _), delta in zip(self._seen, deltas, strict=True)
        ]

    def _watch(self, layer: Any, inputs: tf.Tensor, outputs: tf.Tensor) -> None:
        if self._tape is not None:
            self._tape.watch(outputs)
            self._seen.append((layer, inputs, outputs))


def _tap(layer: Any, watch: Any) -> None:
    # What is watched comes before the activation, which is applied here instead.
    activation = getattr(layer, "activation", None)
    if activation is not None:
        layer.activation = tf.keras.activations.linear
    original = layer.call

    @tf.autograph.experimental.do_not_convert
    @functools.wraps(original)
    def call(inputs: tf.Tensor, *args: Any, **kwargs: Any) -> tf.Tensor:
        outputs = original(inputs, *args, **kwargs)
        watch(layer, inputs, outputs)
        return outputs if activation is None else activation(outputs)

    layer.call = call
