"""Book-keeping: per-example norms and the clipped sum from one forward and one backward pass.

For a dense layer z = a W + b, the gradient of one example is the outer product of its input a and
its delta d = dloss/dz; so its squared norm is (|a|^2 + 1) |d|^2, and the clipped sum over examples is
a^T (c d), with c the clipping factors. No per-example gradient is ever formed. Goodfellow 2015
(arXiv:1510.01799); Bu et al. 2022 (arXiv:2210.00038). The rule holds for vectors (n, units) and a
layer that is called once: over sequences, or for shared layers, there are cross terms.
"""

from __future__ import annotations

from typing import Any

from fedpipe.learning.architectures import per_example_loss
from fedpipe.learning.compiled_kernel import ClippedSum, CompiledKernel
from fedpipe.learning.definition import ModelDefinition
from fedpipe.learning.tensorflow_runtime import tf


def book_keeping_kernel(definition: ModelDefinition) -> CompiledKernel:
    """Returns a fast kernel for models of dense layers, and TensorFlow Privacy's clipping for all others."""
    return CompiledKernel(definition, _make_clipped_sum)


def has_rules(model: tf.keras.Model) -> bool:
    """Returns whether every layer with weights is a plain dense one on vectors, called once."""
    layers = [layer for layer in model.layers if layer.weights]
    return all(_is_plain_dense(layer) for layer in layers) and len(layers) > 0


def _is_plain_dense(layer: Any) -> bool:
    return (
        type(layer) is tf.keras.layers.Dense
        and layer.trainable
        and len(layer.inbound_nodes) == 1
        and len(layer.input_shape) == 2
        and layer.kernel_regularizer is None
        and layer.bias_regularizer is None
        and layer.activity_regularizer is None
    )


def _make_clipped_sum(model: tf.keras.Model) -> ClippedSum:
    if not has_rules(model):
        from fedpipe.learning.tensorflow_privacy_kernel import make_clipped_sum

        return make_clipped_sum(model)
    tapped = _TappedModel(model)

    def clipped_sum(
        features: tf.Tensor, labels: tf.Tensor, example_weights: tf.Tensor, clipping_norm: tf.Tensor
    ) -> tf.Tensor:
        inputs, deltas = tapped.backward(features, labels, example_weights)
        squared = tf.add_n(
            [
                (tf.reduce_sum(inputs[name] ** 2, 1) + float(layer.use_bias))
                * tf.reduce_sum(deltas[name] ** 2, 1)
                for name, layer in tapped.layers.items()
            ]
        )
        finite = tf.math.is_finite(squared)
        factor = tf.minimum(1.0, clipping_norm * tf.math.rsqrt(tf.maximum(squared, 1e-30)))
        sums: dict[Any, tf.Tensor] = {}
        for name, layer in tapped.layers.items():
            # By where: an infinite input times a factor of zero would be NaN.
            usable = finite[:, tf.newaxis]
            a = tf.where(usable, inputs[name], 0.0)
            d = tf.where(usable, deltas[name] * factor[:, tf.newaxis], 0.0)
            sums[layer.kernel.ref()] = tf.matmul(a, d, transpose_a=True)
            if layer.use_bias:
                sums[layer.bias.ref()] = tf.reduce_sum(d, axis=0)
        return tf.concat([tf.reshape(sums[v.ref()], [-1]) for v in model.trainable_variables], axis=0)

    return clipped_sum


class _TappedModel:
    """A model whose dense layers tell what came in, and let a tape watch what came out."""

    def __init__(self, model: tf.keras.Model) -> None:
        self._model = model
        self._tape: tf.GradientTape | None = None
        self._inputs: dict[str, tf.Tensor] = {}
        self._outputs: dict[str, tf.Tensor] = {}
        self.layers: dict[str, Any] = {layer.name: layer for layer in model.layers if layer.weights}
        for layer in self.layers.values():
            layer.call = self._tapped_call(layer)

    def backward(
        self, features: tf.Tensor, labels: tf.Tensor, example_weights: tf.Tensor
    ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        """Returns each layer's inputs and deltas, (n, fan_in) and (n, units), by name."""
        with tf.GradientTape(watch_accessed_variables=False) as self._tape:
            loss = tf.reduce_sum(example_weights * per_example_loss(labels, self._model(features)))
        deltas = self._tape.gradient(loss, self._outputs, unconnected_gradients="zero")
        self._tape = None
        return self._inputs, deltas

    def _tapped_call(self, layer: Any) -> Any:
        @tf.autograph.experimental.do_not_convert
        def call(inputs: tf.Tensor) -> tf.Tensor:
            outputs = tf.matmul(inputs, layer.kernel)
            if layer.use_bias:
                outputs = tf.nn.bias_add(outputs, layer.bias)
            if self._tape is not None:
                self._tape.watch(outputs)
                self._inputs[layer.name], self._outputs[layer.name] = inputs, outputs
            return layer.activation(outputs)

        return call
