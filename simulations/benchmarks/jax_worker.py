"""Runs jax-privacy in an environment of its own: a line of seconds for each line it reads.

Started as `python jax_worker.py PROBLEM`. The whole epoch is one compiled scan; microbatches of 32 are the
fastest setting that was found.
"""

# mypy: ignore-errors
from __future__ import annotations

import itertools
import sys
import time

SHAPES = {"lr": (2000, 1), "mlp": (700, 64, 16, 1)}


def initial(problem):
    """Returns weights and biases."""
    import numpy as np

    generator, sizes = np.random.default_rng(1), SHAPES[problem]
    pairs = itertools.pairwise(sizes)
    return [
        (generator.normal(size=pair).astype(np.float32) / np.sqrt(pair[0]), np.zeros(pair[1], np.float32))
        for pair in pairs
    ]


def make_epoch(problem):
    """Returns a function that makes all steps."""
    import jax
    import jax.numpy as jnp
    import problems
    from jax_privacy import clipping

    def loss(weights, inputs, targets):
        hidden = inputs
        for matrix, bias in weights[:-1]:
            hidden = jax.nn.relu(hidden @ matrix + bias)
        matrix, bias = weights[-1]
        logits = (hidden @ matrix + bias)[..., 0]
        return jnp.mean(jnp.maximum(logits, 0) - logits * targets + jnp.log1p(jnp.exp(-jnp.abs(logits))))

    clipped = clipping.clipped_grad(
        loss,
        argnums=0,
        batch_argnums=(1, 2),
        l2_clip_norm=problems.CLIPPING_NORM,
        microbatch_size=32,
    )
    stddev = problems.NOISE_MULTIPLIER * problems.CLIPPING_NORM

    def step(weights, batch):
        inputs, targets, key = batch
        total = clipped(weights, inputs, targets)
        leaves, tree = jax.tree.flatten(total)
        keys = jax.random.split(key, len(leaves))
        noisy = [
            leaf + stddev * jax.random.normal(own, leaf.shape) for leaf, own in zip(leaves, keys, strict=True)
        ]
        rate = problems.LEARNING_RATE / problems.BATCH
        return jax.tree.map(lambda w, g: w - rate * g, weights, jax.tree.unflatten(tree, noisy)), None

    @jax.jit
    def epoch(weights, x, y, key):
        return jax.lax.scan(step, weights, (x, y, jax.random.split(key, len(x))))[0]

    features, labels = problems.records(problem)
    x = jnp.asarray(features.reshape(problems.STEPS, problems.BATCH, -1))
    y = jnp.asarray(labels.reshape(problems.STEPS, problems.BATCH), jnp.float32)
    state = {"weights": initial(problem), "count": 0}

    def run():
        state["count"] += 1
        key = jax.random.key(state["count"], impl="rbg")
        state["weights"] = jax.block_until_ready(epoch(state["weights"], x, y, key))

    return run


def main():
    """Prints the first call's seconds, then one figure for each line read."""
    start = time.perf_counter()
    epoch = make_epoch(sys.argv[1])
    epoch()
    print(time.perf_counter() - start, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        epoch()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
