"""Tests of a model on made-up records: whether its examples mix, whether rules and gradients agree."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedpipe.learning.chunks import ClippedSum
from fedpipe.learning.losses import per_example_loss
from fedpipe.learning.tensorflow_runtime import tf

NUM_PROBES = 5
TOLERANCE = 1e-3
SMALL = 1e-12


def probe_features(num_features: int, count: int = NUM_PROBES) -> NDArray[np.float32]:
    """Returns records of zeros, ones and numbers between: measurements, flags and row numbers."""
    generator = np.random.default_rng(17)
    shape = (count, num_features)
    kinds = generator.integers(3, size=shape)
    return np.choose(kinds, [0.0, 1.0, generator.random(shape)]).astype(np.float32)


def mixes_examples(model: tf.keras.Model) -> bool:
    """Returns whether the logits of a record depend on the records beside it."""
    num_features = model.input_shape[1]
    features = probe_features(num_features)
    others = probe_features(num_features, NUM_PROBES + 1)[1:]
    others[0] = features[0]
    alone = model(features[:1]).numpy()
    beside = [model(batch).numpy() for batch in (features, 1 - features[::-1], others)]
    logits = np.stack([alone[0], beside[0][0], beside[2][0]])
    reverse = model(1 - features[-1:]).numpy()
    logits = np.concatenate([logits - logits[:1], beside[1][:1] - reverse])
    scale = max(float(np.abs(alone).max()), float(np.abs(reverse).max()), 1.0)
    # A comparison that is not finite does not show that records stay apart.
    return not bool((np.abs(logits) <= TOLERANCE * scale).all())


def is_right(clipped_sum: ClippedSum, model: tf.keras.Model) -> bool:
    """Returns whether `clipped_sum` of made-up records is that of their gradients, one at a time.

    Leaves other weights in the model: they are moved off their initial values, which may hide terms.
    """
    generator = np.random.default_rng(17)
    for variable in model.trainable_variables:
        variable.assign_add(0.1 * generator.normal(size=variable.shape).astype(np.float32))
    features = tf.constant(probe_features(model.input_shape[1]))
    labels = tf.constant(np.arange(NUM_PROBES) % max(model.output_shape[1], 2), tf.int32)
    probes = [slice(row, row + 1) for row in range(NUM_PROBES)]
    gradients = np.stack([_gradient(model, features[probe], labels[probe]) for probe in probes])
    norms = np.linalg.norm(gradients, axis=1)
    telling = norms > SMALL
    if not (np.isfinite(norms).all() and telling.any()):
        return False
    # Below all norms, so that every one of them decides what is released.
    clipping_norm = 0.5 * float(norms[telling].min())
    expected = clipping_norm * np.sum(gradients[telling] / norms[telling, np.newaxis], axis=0)
    try:
        found = clipped_sum(features, labels, tf.ones([NUM_PROBES]), tf.constant(clipping_norm, tf.float32))
    except (ValueError, TypeError, tf.errors.OpError):  # shapes that it was not made for
        return False
    return bool((np.abs(found.numpy() - expected) <= TOLERANCE * clipping_norm).all())


def _gradient(model: tf.keras.Model, features: tf.Tensor, labels: tf.Tensor) -> NDArray[np.float64]:
    variables = model.trainable_variables
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(variables)
        loss = per_example_loss(labels, model(features))[0]
    parts = tape.gradient(loss, variables, unconnected_gradients="zero")
    flat = [tf.reshape(tf.convert_to_tensor(part), [-1]) for part in parts]
    return np.asarray(tf.concat(flat, axis=0).numpy(), dtype=np.float64)
