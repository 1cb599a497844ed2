"""Book-keeping: per-example norms and the clipped sum from one forward and one backward pass.

For a dense layer z = a W + b, the gradient of one example is the outer product of its input a and
its delta d = dloss/dz; so its squared norm is (|a|^2 + 1) |d|^2, and the clipped sum over examples is
a^T (c d), with c the clipping factors. Goodfellow 2015 (arXiv:1510.01799); Bu et al. 2022
(arXiv:2210.00038). `fedpipe.learning.rules` has other layers' rules. A model with a layer without
one goes to TensorFlow Privacy's clipping.

A model of the user's own may use weights in ways that no layer tells of: by a function between
layers, or by folding a sequence into the batch. So the rules are compared with gradients of single
examples once, on made-up records, and given up if they differ.

Where a user is clipped, not a record, the gradients of her records add up first, with all cross terms
between them: to a layer, her records are what the positions of a sequence are.
"""

from __future__ import annotations

import math
from typing import Any

from fedpipe.learning.chunk_sizes import CHUNK
from fedpipe.learning.chunks import ClippedSum, MakeClippedSum, in_chunks
from fedpipe.learning.compiled_kernel import CompiledKernel
from fedpipe.learning.definition import ModelDefinition
from fedpipe.learning.probes import is_right, probe_features
from fedpipe.learning.rules import (
    Call,
    Clipping,
    Contribution,
    clip_and_sum,
    contributions,
    is_lean,
    join,
    of_units,
)
from fedpipe.learning.taps import TappedModel, ruled_layers
from fedpipe.learning.tensorflow_runtime import tf
from fedpipe.learning.xla import Compile, as_graph


def book_keeping_kernel(definition: ModelDefinition, compiled: Compile = as_graph) -> CompiledKernel:
    """Returns a fast kernel for models of layers with rules, and TensorFlow Privacy's clipping for others."""
    return CompiledKernel(definition, lambda model: _make_clipped_sum(model, definition, compiled))


def _make_clipped_sum(
    model: tf.keras.Model, definition: ModelDefinition, compiled: Compile
) -> MakeClippedSum:
    if has_rules(model):
        by_rules = clipped_sum_by_rules(model, compiled)
        own = definition.settings.type == "custom"
        if not own or is_right(by_rules(1), model):
            return by_rules
    from fedpipe.learning.tensorflow_privacy_kernel import make_clipped_sum

    return make_clipped_sum(model)


def has_rules(model: tf.keras.Model) -> bool:
    """Returns whether every weight belongs to a layer with a rule."""
    covered = {weight.ref() for layer in ruled_layers(model) for weight in layer.trainable_weights}
    return bool(model.trainable_variables) and all(v.ref() in covered for v in model.trainable_variables)


def clipped_sum_by_rules(model: tf.keras.Model, compiled: Compile = as_graph) -> MakeClippedSum:
    """Returns the clipped sum of a model that has rules, which is taken over, by records of a unit."""
    tapped = TappedModel(model)
    variables = model.trainable_variables
    features = tf.constant(probe_features(model.input_shape[1], count=1))
    probed = _by_variable(tapped.backward(features, tf.zeros([1], tf.int32), tf.ones([1]))).values()
    lean = all(is_lean(part) for part in probed)

    def make(max_records: int) -> ClippedSum:
        def clipped_sum(
            features: tf.Tensor, labels: tf.Tensor, example_weights: tf.Tensor, clipping_norm: tf.Tensor
        ) -> tf.Tensor:
            calls = tapped.backward(features, labels, example_weights)
            found = {name: of_units(part, max_records) for name, part in _by_variable(calls).items()}
            squared = tf.reduce_sum(tf.stack([part.squared_norms() for part in found.values()]), axis=0)
            return clip_and_sum(squared, clipping_norm, lambda clipping: _joined(found, variables, clipping))

        summed = compiled(clipped_sum, max_records)
        if lean and max_records == 1:
            return summed
        # What a unit takes of memory is one gradient, if no record's own gradient is formed on the way.
        units = CHUNK if lean else max(CHUNK // max_records, 1)
        size = sum(math.prod(variable.shape) for variable in variables)
        return in_chunks(summed, size, size=units * max_records)

    return make


def _joined(found: dict[Any, Contribution], variables: list[tf.Variable], clipping: Clipping) -> tf.Tensor:
    """Returns the clipped sums of all variables, those among them that nothing used."""
    sums = {variable: part.clipped_sum(clipping) for variable, part in found.items()}
    unused = {v.ref(): tf.zeros([math.prod(v.shape)]) for v in variables if v.ref() not in sums}
    return tf.concat([(sums | unused)[variable.ref()] for variable in variables], axis=0)


def _by_variable(calls: list[Call]) -> dict[Any, Contribution]:
    found: dict[Any, Contribution] = {}
    for call in calls:
        for variable, part in contributions(call):
            known = found.get(variable.ref())
            found[variable.ref()] = part if known is None else join(known, part)
    return found
