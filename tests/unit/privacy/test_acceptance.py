"""Records drawn less often than the plan says: never more often, independently, at the planned cost."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedpipe.errors import PrivacyError
from fedpipe.privacy import DpSgd, Randomness, SecureRandomness, SeededRandomness

Floats = NDArray[np.float32]
Sample = Callable[[DpSgd, int, Randomness, Floats], list[NDArray[np.int32]]]

SGD = DpSgd(sampling_probability=0.4, clipping_norm=1.0, noise_multiplier=1.0, num_rounds=3, local_steps=4000)
ACCEPTANCE = np.array([1, 0.5, 0.05, 0, 1, 0.5], np.float32)
SIGMAS = 6.0


class CheckError(AssertionError):
    """A sampler that does not draw as it is charged."""


def check_acceptance(sample: Sample) -> None:
    """A false alarm has a probability below 1e-6."""
    chosen = np.zeros((SGD.local_steps, len(ACCEPTANCE)))
    for row, batch in enumerate(sample(SGD, len(ACCEPTANCE), SecureRandomness(), ACCEPTANCE)):
        chosen[row, batch] = 1
    chances = SGD.sampling_probability * ACCEPTANCE
    slack = SIGMAS * np.sqrt(chances * (1 - chances) / SGD.local_steps)
    if (np.abs(chosen.mean(axis=0) - chances) > slack).any():
        raise CheckError("Expected each record as often as q times its acceptance.")
    centred = chosen - chances
    covariance = (centred.T @ centred) / SGD.local_steps
    np.fill_diagonal(covariance, 0)
    if np.abs(covariance).max() > SIGMAS * 0.25 / math.sqrt(SGD.local_steps):
        raise CheckError("Expected records that are drawn independently.")
    if np.abs((centred[:-1] * centred[1:]).mean(axis=0)).max() > SIGMAS * 0.25 / math.sqrt(SGD.local_steps):
        raise CheckError("Expected steps that are drawn independently.")


def sample_as_planned(
    mechanism: DpSgd, size: int, randomness: Randomness, acceptance: Floats
) -> list[NDArray[np.int32]]:
    return mechanism.sample(size, randomness, acceptance)


def sample_to_keep_the_batch_size(
    mechanism: DpSgd, size: int, randomness: Randomness, acceptance: Floats
) -> list[NDArray[np.int32]]:
    """Weights of mean 1, as importance sampling has them: some records are drawn above q."""
    chances = np.minimum(mechanism.sampling_probability * acceptance / acceptance.mean(), 1)
    coins = [
        np.array([randomness.bernoulli(float(chance), 1)[0] for chance in chances])
        for _ in range(mechanism.local_steps)
    ]
    return [np.flatnonzero(coin).astype(np.int32) for coin in coins]


def sample_without_acceptance(
    mechanism: DpSgd, size: int, randomness: Randomness, acceptance: Floats
) -> list[NDArray[np.int32]]:
    return mechanism.sample(size, randomness)


def sample_one_coin_for_a_class(
    mechanism: DpSgd, size: int, randomness: Randomness, acceptance: Floats
) -> list[NDArray[np.int32]]:
    """All records of one acceptance share a coin."""
    levels, inverse = np.unique(acceptance, return_inverse=True)
    coins = [
        np.array([randomness.bernoulli(mechanism.sampling_probability * float(a), 1)[0] for a in levels])
        for _ in range(mechanism.local_steps)
    ]
    return [np.flatnonzero(coin[inverse]).astype(np.int32) for coin in coins]


def test_each_record_is_drawn_with_q_times_its_acceptance() -> None:
    check_acceptance(sample_as_planned)


@pytest.mark.parametrize(
    "sample", [sample_to_keep_the_batch_size, sample_without_acceptance, sample_one_coin_for_a_class]
)
def test_planted_bugs_in_acceptance_are_seen(sample: Sample) -> None:
    with pytest.raises(CheckError):
        check_acceptance(sample)


class Recording:
    """Randomness that remembers the largest probability it was asked for."""

    kind = "seeded"

    def __init__(self) -> None:
        self._inner = SeededRandomness(0)
        self.largest = 0.0

    def bernoulli(self, probability: float, size: int) -> NDArray[np.bool_]:
        self.largest = max(self.largest, probability)
        return self._inner.bernoulli(probability, size)


@given(
    st.lists(st.floats(0, 1, width=32), max_size=20),
    st.floats(1e-6, 1),
)
def test_no_record_is_ever_drawn_above_q(acceptance: list[float], q: float) -> None:
    mechanism = SGD.model_copy(update={"sampling_probability": q, "local_steps": 2})
    randomness = Recording()
    batches = mechanism.sample(len(acceptance), randomness, np.array(acceptance, np.float32))  # type: ignore[arg-type]
    assert randomness.largest <= q
    never = {row for row, chance in enumerate(acceptance) if chance == 0}
    assert all(never.isdisjoint(batch.tolist()) for batch in batches)


@pytest.mark.parametrize("acceptance", [[1.0, 1.001], [-0.1, 1.0], [math.nan, 1.0], [1.0], [1.0, 1.0, 1.0]])
def test_an_acceptance_that_is_not_paid_for_is_refused(acceptance: list[float]) -> None:
    with pytest.raises(PrivacyError, match=r"acceptance in \[0, 1\]"):
        SGD.sample(2, SeededRandomness(0), np.array(acceptance, np.float32))


def test_acceptance_of_one_draws_what_none_draws() -> None:
    ones = SGD.sample(7, SeededRandomness(3), np.ones(7, np.float32))
    assert [batch.tolist() for batch in ones] == [
        batch.tolist() for batch in SGD.sample(7, SeededRandomness(3))
    ]


def test_the_worst_pair_of_a_thinned_step_stays_within_the_planned_curve() -> None:
    """One record, one dimension: P is noise alone, Q the mixture with the record at the clipping norm.

    The hockey-stick divergence of the pair at q a is below that at q, for both orders and every epsilon.
    """
    points = np.linspace(-12, 13, 200_001)
    width = points[1] - points[0]
    base, moved = (np.exp(-((points - mean) ** 2) / 2) / math.sqrt(2 * math.pi) for mean in (0.0, 1.0))

    def delta(q: float, epsilon: float, *, added: bool) -> float:
        mixture = (1 - q) * base + q * moved
        first, second = (mixture, base) if added else (base, mixture)
        return float(np.maximum(first - math.exp(epsilon) * second, 0).sum() * width)

    for epsilon in (0.0, 0.1, 0.5, 1.0, 2.0):
        for added in (True, False):
            curve = [delta(0.4 * a, epsilon, added=added) for a in (0, 0.05, 0.3, 0.7, 1.0)]
            assert curve == sorted(curve)
