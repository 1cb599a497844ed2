"""Who is compared in this process: our kernels, plain steps, TensorFlow Privacy's own ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpipe.data.transform import InputGroup
from fedpipe.learning.architectures import build_model, initial_weights
from fedpipe.learning.definition import ModelDefinition, ModelSettings
from fedpipe.learning.kernel import make_kernel
from fedpipe.learning.local_task import LocalTask
from fedpipe.learning.losses import per_example_loss
from fedpipe.learning.tensorflow_runtime import tf
from fedpipe.memory import align
from fedpipe.privacy import DpSgd, SecureRandomness
from simulations.benchmarks.problems import (
    BATCH,
    CLIPPING_NORM,
    LEARNING_RATE,
    NOISE_MULTIPLIER,
    STEPS,
    records,
)

Run = Callable[[], object]
Features = NDArray[np.float32]
Labels = NDArray[np.int32]


def make_contestants(problem: str) -> dict[str, Callable[[], Run]]:
    """Returns, by name, functions that prepare a contestant; what they return makes all steps."""
    definition = define(problem)
    features, labels = records(problem)
    return {
        "plain, batches in a row": lambda: _plain(definition, features, labels, gathered=False),
        "plain, batches drawn": lambda: _plain(definition, features, labels, gathered=True),
        "fedpipe book_keeping": lambda: run_kernel("book_keeping", definition, features, labels),
        "fedpipe book_keeping_xla": lambda: run_kernel("book_keeping_xla", definition, features, labels),
        "fedpipe tensorflow_privacy": lambda: run_kernel("tensorflow_privacy", definition, features, labels),
        "TensorFlow Privacy, fast clipping": lambda: _fast_clipping(definition, features, labels),
        "TensorFlow Privacy, vectorized optimizer": lambda: _vectorized(definition, features, labels),
    }


def define(problem: str) -> ModelDefinition:
    """Returns the model of a problem."""
    kind = {"lr": "logistic_regression", "mlp": "mlp", "cnn": "cnn"}[problem]
    width, classes = {"lr": (2000, 2), "mlp": (700, 2), "cnn": (784, 10)}[problem]
    groups = (InputGroup(kind="image", shape=(28, 28, 1)),) if problem == "cnn" else ()
    settings = ModelSettings.model_validate({"type": kind, "hidden_units": (64, 16)})
    return ModelDefinition(settings=settings, num_features=width, num_classes=classes, groups=groups)


def run_kernel(name: str, definition: ModelDefinition, features: Features, labels: Labels) -> Run:
    """A client's whole release: Poisson batches and noise are drawn anew each time."""
    kernel = make_kernel(name, definition)
    weights, randomness = initial_weights(definition, 0), SecureRandomness()
    mechanism = DpSgd(
        sampling_probability=1 / STEPS,
        clipping_norm=CLIPPING_NORM,
        noise_multiplier=NOISE_MULTIPLIER,
        num_rounds=1,
        local_steps=STEPS,
    )
    aligned = align(features)

    def run() -> object:
        task = LocalTask(
            weights=weights,
            features=aligned,
            labels=labels,
            batches=mechanism.sample(len(labels), randomness),
            noise=mechanism.noise(weights.size, randomness),
            clipping_norm=CLIPPING_NORM,
            local_step_size=LEARNING_RATE / BATCH,
        )
        return kernel.noisy_sums(task)

    return run


def _plain(definition: ModelDefinition, features: Features, labels: Labels, *, gathered: bool) -> Run:
    """SGD without privacy in one graph; `gathered`: on shuffled batches, as training has them."""
    model = build_model(definition)
    variables = model.trainable_variables
    x, y = tf.constant(features), tf.constant(labels)

    def step(number: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        part = slice(number * BATCH, (number + 1) * BATCH)
        chosen = (tf.gather(x, rows[part]), tf.gather(y, rows[part])) if gathered else (x[part], y[part])
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(per_example_loss(chosen[1], model(chosen[0])))
        for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            variable.assign_sub(LEARNING_RATE * gradient)
        return number + 1

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def steps(rows: tf.Tensor) -> tf.Tensor:
        return tf.while_loop(
            lambda number: number < STEPS, lambda number: step(number, rows), [0], parallel_iterations=1
        )

    generator = np.random.default_rng(1)

    def run() -> object:
        return steps(tf.constant(generator.permutation(len(labels)).astype(np.int32)))[0].numpy()

    return run


def _fast_clipping(definition: ModelDefinition, features: Features, labels: Labels) -> Run:
    from tensorflow_privacy.privacy.fast_gradient_clipping import layer_registry
    from tensorflow_privacy.privacy.keras_models.dp_keras_model import DPModel

    plain = build_model(definition)
    model = DPModel(
        l2_norm_clip=CLIPPING_NORM,
        noise_multiplier=NOISE_MULTIPLIER,
        layer_registry=layer_registry.make_default_layer_registry(),
        inputs=plain.inputs,
        outputs=plain.outputs,
    )
    return _fit(model, tf.keras.optimizers.legacy.SGD(LEARNING_RATE), "sum_over_batch_size", features, labels)


def _vectorized(definition: ModelDefinition, features: Features, labels: Labels) -> Run:
    from tensorflow_privacy import VectorizedDPKerasSGDOptimizer

    optimizer = VectorizedDPKerasSGDOptimizer(
        l2_norm_clip=CLIPPING_NORM,
        noise_multiplier=NOISE_MULTIPLIER,
        num_microbatches=BATCH,
        learning_rate=LEARNING_RATE,
    )
    return _fit(build_model(definition), optimizer, "none", features, labels)


def _fit(model: Any, optimizer: Any, reduction: str, features: Features, labels: Labels) -> Run:
    binary = model.output_shape[1] == 1
    losses = tf.keras.losses
    kind = losses.BinaryCrossentropy if binary else losses.SparseCategoricalCrossentropy
    model.compile(optimizer, kind(from_logits=True, reduction=reduction))
    targets = labels[:, np.newaxis]
    return lambda: model.fit(features, targets, batch_size=BATCH, epochs=1, verbose=0, shuffle=False)
