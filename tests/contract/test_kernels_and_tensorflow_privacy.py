"""Both kernels make the very sums that TensorFlow Privacy's own optimizers and fast clipping step by."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest

from fedpipe.learning import ModelDefinition, ModelSettings, TrainingSettings
from fedpipe.learning.architectures import build_model, initial_weights
from fedpipe.learning.kernel import make_kernel
from fedpipe.learning.local_task import LocalTask
from fedpipe.learning.tensorflow_runtime import tf
from fedpipe.learning.vectors import Vector, flatten, unflatten

KERNELS = get_args(TrainingSettings.model_fields["kernel"].annotation)
BATCH, CLIPPING_NORM = 12, 0.6
DEFINITION = ModelDefinition(
    settings=ModelSettings.model_validate({"type": "mlp", "hidden_units": (5, 3)}),
    num_features=6,
    num_classes=2,
)


def vectorized() -> tuple[Any, Any, str]:
    from tensorflow_privacy import VectorizedDPKerasSGDOptimizer

    optimizer = VectorizedDPKerasSGDOptimizer(
        l2_norm_clip=CLIPPING_NORM, noise_multiplier=0.0, num_microbatches=BATCH, learning_rate=1.0
    )
    return build_model(DEFINITION), optimizer, "none"


def one_by_one() -> tuple[Any, Any, str]:
    from tensorflow_privacy import DPKerasSGDOptimizer

    optimizer = DPKerasSGDOptimizer(
        l2_norm_clip=CLIPPING_NORM, noise_multiplier=0.0, num_microbatches=BATCH, learning_rate=1.0
    )
    return build_model(DEFINITION), optimizer, "none"


def fast_clipping() -> tuple[Any, Any, str]:
    from tensorflow_privacy.privacy.fast_gradient_clipping import layer_registry
    from tensorflow_privacy.privacy.keras_models.dp_keras_model import DPModel

    plain = build_model(DEFINITION)
    model = DPModel(
        l2_norm_clip=CLIPPING_NORM,
        noise_multiplier=0.0,
        layer_registry=layer_registry.make_default_layer_registry(),
        inputs=plain.inputs,
        outputs=plain.outputs,
    )
    return model, tf.keras.optimizers.legacy.SGD(1.0), "sum_over_batch_size"


def step(model: Any, optimizer: Any, reduction: str, task: LocalTask) -> Vector:
    """Returns the clipped sum that one step of size 1 on the mean went by."""
    loss = tf.keras.losses.BinaryCrossentropy(from_logits=True, reduction=reduction)
    model.compile(optimizer, loss)
    model.set_weights(unflatten(task.weights, [tuple(weight.shape) for weight in model.weights]))
    model.fit(task.features, task.labels[:, np.newaxis], batch_size=BATCH, epochs=1, verbose=0, shuffle=False)
    return BATCH * (task.weights - flatten(model.get_weights()))


@pytest.mark.parametrize("peer", [vectorized, one_by_one, fast_clipping])
def test_sums_are_those_of_tensorflow_privacy(peer: Any) -> None:
    generator = np.random.default_rng(3)
    weights = initial_weights(DEFINITION, 1)
    task = LocalTask(
        weights=(weights + 0.1 * generator.normal(size=weights.size)).astype(np.float32),
        features=generator.normal(size=(BATCH, 6)).astype(np.float32),
        labels=generator.integers(2, size=BATCH).astype(np.int32),
        batches=[np.arange(BATCH, dtype=np.int32)],
        noise=np.zeros((1, weights.size), np.float32),
        clipping_norm=CLIPPING_NORM,
        local_step_size=0.0,
    )
    expected = step(*peer(), task)
    for kernel in KERNELS:
        found = make_kernel(kernel, DEFINITION).noisy_sums(task)
        np.testing.assert_allclose(found, expected, atol=1e-5)
