"""Book-keeping: per-example norms and the clipped sum from one forward and one backward pass.

For a dense layer z = a W + b, the gradient of one example is the outer product of its input a and
its delta d = dloss/dz; so its squared norm is (|a|^2 + 1) |d|^2, and the clipped sum over examples is
a^T (c d), with c the clipping factors. Goodfellow 2015 (arXiv:1510.01799); Bu et al. 2022
(arXiv:2210.00038). `fedpipe.learning.rules` has other layers' rules. A model with a layer without
one goes to TensorFlow Privacy's clipping.

A model of the user's own may use weights in ways that no layer tells of: by a function between
layers, or by folding a sequence into the batch. So the rules are compared with gradients of single
examples once, on made-up records, and given up if they differ.
"""

from __future__ import annotations

import math
from typing import Any

from fedpipe.learning.chunks import ClippedSum, in_chunks
from fedpipe.learning.compiled_kernel import CompiledKernel
from fedpipe.learning.definition import ModelDefinition
from fedpipe.learning.probes import is_right, probe_features
from fedpipe.learning.rules import Call, Clipping, Contribution, clip_and_sum, contributions, is_lean, join
from fedpipe.learning.taps import TappedModel, ruled_layers
from fedpipe.learning.tensorflow_runtime import tf


def book_keeping_kernel(definition: ModelDefinition) -> CompiledKernel:
    """Returns a fast kernel for models of layers with rules, and TensorFlow Privacy's clipping for others."""
    return CompiledKernel(definition, lambda model: _make_clipped_sum(model, definition))


def _make_clipped_sum(model: tf.keras.Model, definition: ModelDefinition) -> ClippedSum:
    if has_rules(model):
        by_rules = clipped_sum_by_rules(model)
        own = definition.settings.type == "custom"
        if not own or is_right(by_rules, model):
            return by_rules
    from fedpipe.learning.tensorflow_privacy_kernel import make_clipped_sum

    return make_clipped_sum(model)


def has_rules(model: tf.keras.Model) -> bool:
    """Returns whether every weight belongs to a layer with a rule."""
    covered = {weight.ref() for layer in ruled_layers(model) for weight in layer.trainable_weights}
    return bool(model.trainable_variables) and all(v.ref() in covered for v in model.trainable_variables)


def clipped_sum_by_rules(model: tf.keras.Model) -> ClippedSum:
    """Returns the clipped sum of a model that has rules, which is taken over."""
    tapped = TappedModel(model)
    variables = model.trainable_variables

    def clipped_sum(
        features: tf.Tensor, labels: tf.Tensor, example_weights: tf.Tensor, clipping_norm: tf.Tensor
    ) -> tf.Tensor:
        found = _by_variable(tapped.backward(features, labels, example_weights))
        squared = tf.add_n([part.squared_norms() for part in found.values()])

        def make_sum(clipping: Clipping) -> tf.Tensor:
            sums = {variable: part.clipped_sum(clipping) for variable, part in found.items()}
            unused = {v.ref(): tf.zeros([math.prod(v.shape)]) for v in variables if v.ref() not in sums}
            return tf.concat([(sums | unused)[variable.ref()] for variable in variables], axis=0)

        return clip_and_sum(squared, clipping_norm, make_sum)

    features = tf.constant(probe_features(model.input_shape[1], count=1))
    parts = _by_variable(tapped.backward(features, tf.zeros([1], tf.int32), tf.ones([1])))
    if all(is_lean(part) for part in parts.values()):
        return clipped_sum
    return in_chunks(clipped_sum, sum(math.prod(variable.shape) for variable in variables))


def _by_variable(calls: list[Call]) -> dict[Any, Contribution]:
    found: dict[Any, Contribution] = {}
    for call in calls:
        for variable, part in contributions(call):
            known = found.get(variable.ref())
            found[variable.ref()] = part if known is None else join(known, part)
    return found
