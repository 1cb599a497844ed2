"""Statistical checks of the mechanisms, and bugs planted to show that the checks see them.

Each check passes for the real mechanism (a false alarm has a probability below 1e-6) and fails
for mechanisms that leak: noise forgotten, too small, used twice or left out, batches that are
no Poisson samples, plans that depend on the records.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import pytest
from numpy.typing import NDArray

from fedpipe.privacy import (
    Demand,
    DpSgd,
    NoisyHistograms,
    PrivacyPlan,
    Randomness,
    SecureRandomness,
    Shares,
    calibrate,
)

Arrays = dict[str, NDArray[np.int64]]
Release = Callable[[NoisyHistograms, Mapping[str, NDArray[np.int64]], Randomness], Arrays]
Sample = Callable[[DpSgd, int, Randomness], list[NDArray[np.int32]]]
Noise = Callable[[DpSgd, int, Randomness], NDArray[np.float32]]
NoisySum = Callable[[DpSgd, NDArray[np.float64], Randomness], NDArray[np.float64]]
MakePlan = Callable[[NDArray[np.float64]], PrivacyPlan]

COUNTS = NoisyHistograms(noise_stddev=5.0, num_histograms=2)
SGD = DpSgd(sampling_probability=0.2, clipping_norm=0.5, noise_multiplier=3.0, num_rounds=10, local_steps=300)
SIGMAS = 6.0


class CheckError(AssertionError):
    """A mechanism that does not do what it is charged for."""


def expect(holds: bool, what: str) -> None:
    if not holds:
        raise CheckError(f"Expected {what}.")


def expect_noise(values: NDArray[np.float64], stddev: float) -> None:
    """Independent across `values`, mean 0, standard deviation `stddev`; for (nearly) normal noise."""
    size = values.size
    expect(abs(values.mean()) < SIGMAS * stddev / math.sqrt(size), "noise of mean 0")
    expect(abs(values.var() / stddev**2 - 1) < SIGMAS * math.sqrt(2 / size), f"noise of deviation {stddev}")


def expect_uncorrelated(first: NDArray[np.float64], second: NDArray[np.float64], stddev: float) -> None:
    correlation = np.mean(first * second) / stddev**2
    expect(abs(correlation) < SIGMAS / math.sqrt(first.size), "independent noise")


# --- histograms -----------------------------------------------------------------------------


def check_histograms(release: Release) -> None:
    exact = {"a": np.full((2, 4000), 3), "b": np.arange(8000)}
    noises = []
    for _ in range(2):
        found = release(COUNTS, exact, SecureRandomness())
        noise = {name: (found[name] - exact[name]).astype(float).ravel() for name in exact}
        for values in noise.values():
            expect_noise(values, COUNTS.noise_stddev)
        expect_uncorrelated(noise["a"], noise["b"], COUNTS.noise_stddev)
        noises.append(noise["a"])
    expect_uncorrelated(noises[0][:4000], noises[0][4000:], COUNTS.noise_stddev)
    expect_uncorrelated(noises[0], noises[1], COUNTS.noise_stddev)


def release_counts(
    mechanism: NoisyHistograms, arrays: Mapping[str, NDArray[np.int64]], randomness: Randomness
) -> Arrays:
    return mechanism.release(arrays, randomness, num_histograms=2)


def release_without_noise(
    mechanism: NoisyHistograms, arrays: Mapping[str, NDArray[np.int64]], randomness: Randomness
) -> Arrays:
    return dict(arrays)


def release_with_half_the_variance(
    mechanism: NoisyHistograms, arrays: Mapping[str, NDArray[np.int64]], randomness: Randomness
) -> Arrays:
    less = mechanism.model_copy(update={"noise_stddev": mechanism.noise_stddev / math.sqrt(2)})
    return less.release(arrays, randomness, num_histograms=2)


def release_same_noise_in_every_histogram(
    mechanism: NoisyHistograms, arrays: Mapping[str, NDArray[np.int64]], randomness: Randomness
) -> Arrays:
    noise = randomness.discrete_gaussian(mechanism.noise_stddev, max(a.size for a in arrays.values()))
    return {name: array + noise[: array.size].reshape(array.shape) for name, array in arrays.items()}


def release_same_noise_in_every_row(
    mechanism: NoisyHistograms, arrays: Mapping[str, NDArray[np.int64]], randomness: Randomness
) -> Arrays:
    return {
        name: array + randomness.discrete_gaussian(mechanism.noise_stddev, array.shape[-1])
        for name, array in arrays.items()
    }


@lru_cache
def _kept_noise(name: str, stddev: float, size: int) -> NDArray[np.int64]:
    return SecureRandomness().discrete_gaussian(stddev, size)


def release_noise_of_the_last_time(
    mechanism: NoisyHistograms, arrays: Mapping[str, NDArray[np.int64]], randomness: Randomness
) -> Arrays:
    return {
        name: array + _kept_noise(name, mechanism.noise_stddev, array.size).reshape(array.shape)
        for name, array in arrays.items()
    }


def test_histograms_are_released_as_charged() -> None:
    check_histograms(release_counts)


@pytest.mark.parametrize(
    "release",
    [
        release_without_noise,
        release_with_half_the_variance,
        release_same_noise_in_every_histogram,
        release_same_noise_in_every_row,
        release_noise_of_the_last_time,
    ],
)
def test_planted_bugs_in_histograms_are_seen(release: Release) -> None:
    with pytest.raises(CheckError):
        check_histograms(release)


# --- sampling -------------------------------------------------------------------------------


def check_sampling(sample: Sample) -> None:
    num_records, rounds = 50, 5
    q, draws = SGD.sampling_probability, SGD.local_steps * 5
    chosen = np.zeros((draws, num_records))
    for start in range(rounds):
        batches = sample(SGD, num_records, SecureRandomness())
        expect(len(batches) == SGD.local_steps, "a batch for each local step")
        for row, batch in enumerate(batches, start * SGD.local_steps):
            chosen[row, batch] = 1
    sizes = chosen.sum(axis=1)
    mean, variance = num_records * q, num_records * q * (1 - q)
    expect(abs(sizes.mean() - mean) < SIGMAS * math.sqrt(variance / draws), "batches of the planned size")
    expect(abs(sizes.var() / variance - 1) < SIGMAS * math.sqrt(2 / draws), "sizes that vary as binomials")
    expect_uncorrelated(chosen[:-1] - q, chosen[1:] - q, math.sqrt(q * (1 - q)))
    alone = sample(SGD, 1, SecureRandomness())
    expect(any(len(batch) == 0 for batch in alone), "empty batches from a small shard")


def sample_poisson(mechanism: DpSgd, num_records: int, randomness: Randomness) -> list[NDArray[np.int32]]:
    return mechanism.sample(num_records, randomness)


def sample_shuffled(mechanism: DpSgd, num_records: int, randomness: Randomness) -> list[NDArray[np.int32]]:
    """An epoch in shuffled batches of a fixed size, as most training loops do it."""
    size = max(1, round(mechanism.sampling_probability * num_records))
    batches: list[NDArray[np.int32]] = []
    while len(batches) < mechanism.local_steps:
        order = np.argsort(randomness.normal(num_records)).astype(np.int32)
        batches += [order[start : start + size] for start in range(0, num_records - size + 1, size)]
    return batches[: mechanism.local_steps]


def sample_fixed_size(mechanism: DpSgd, num_records: int, randomness: Randomness) -> list[NDArray[np.int32]]:
    size = max(1, round(mechanism.sampling_probability * num_records))
    return [
        np.argsort(randomness.normal(num_records))[:size].astype(np.int32)
        for _ in range(mechanism.local_steps)
    ]


def sample_once_for_all_steps(
    mechanism: DpSgd, num_records: int, randomness: Randomness
) -> list[NDArray[np.int32]]:
    return mechanism.sample(num_records, randomness)[:1] * mechanism.local_steps


def sample_never_empty(mechanism: DpSgd, num_records: int, randomness: Randomness) -> list[NDArray[np.int32]]:
    batches = mechanism.sample(num_records, randomness)
    return [batch if len(batch) else np.zeros(1, np.int32) for batch in batches]


def sample_twice_as_often(
    mechanism: DpSgd, num_records: int, randomness: Randomness
) -> list[NDArray[np.int32]]:
    more = mechanism.model_copy(update={"sampling_probability": 2 * mechanism.sampling_probability})
    return more.sample(num_records, randomness)


def test_batches_are_sampled_as_charged() -> None:
    check_sampling(sample_poisson)


@pytest.mark.parametrize(
    "sample",
    [
        sample_shuffled,
        sample_fixed_size,
        sample_once_for_all_steps,
        sample_never_empty,
        sample_twice_as_often,
    ],
)
def test_planted_bugs_in_sampling_are_seen(sample: Sample) -> None:
    with pytest.raises(CheckError):
        check_sampling(sample)


# --- noise of gradient sums ------------------------------------------------------------------


def check_gradient_noise(make_noise: Noise) -> None:
    stddev = SGD.noise_multiplier * SGD.clipping_norm
    noise = make_noise(SGD, 200, SecureRandomness()).astype(np.float64)
    expect(noise.shape == (SGD.local_steps, 200), "noise for every step and parameter")
    expect_noise(noise, stddev)
    expect_uncorrelated(noise[0::2], noise[1::2], stddev)  # steps
    expect_uncorrelated(noise[:, 0::2], noise[:, 1::2], stddev)  # parameters
    again = make_noise(SGD, 200, SecureRandomness()).astype(np.float64)
    expect_uncorrelated(noise, again, stddev)


def noise_as_planned(mechanism: DpSgd, size: int, randomness: Randomness) -> NDArray[np.float32]:
    return mechanism.noise(size, randomness)


def noise_forgotten(mechanism: DpSgd, size: int, randomness: Randomness) -> NDArray[np.float32]:
    return np.zeros((mechanism.local_steps, size), np.float32)


def noise_without_clipping_norm(mechanism: DpSgd, size: int, randomness: Randomness) -> NDArray[np.float32]:
    return (mechanism.noise(size, randomness) / mechanism.clipping_norm).astype(np.float32)


def noise_of_half_the_variance(mechanism: DpSgd, size: int, randomness: Randomness) -> NDArray[np.float32]:
    return (mechanism.noise(size, randomness) / math.sqrt(2)).astype(np.float32)


def noise_once_for_all_steps(mechanism: DpSgd, size: int, randomness: Randomness) -> NDArray[np.float32]:
    return np.repeat(mechanism.noise(size, randomness)[:1], mechanism.local_steps, axis=0)


def noise_once_for_all_parameters(mechanism: DpSgd, size: int, randomness: Randomness) -> NDArray[np.float32]:
    return np.repeat(mechanism.noise(1, randomness), size, axis=1)


def noise_that_cancels_between_steps(
    mechanism: DpSgd, size: int, randomness: Randomness
) -> NDArray[np.float32]:
    noise = mechanism.noise(size, randomness)
    noise[1::2] = -noise[0::2]
    return noise


def test_gradient_noise_is_as_charged() -> None:
    check_gradient_noise(noise_as_planned)


@pytest.mark.parametrize(
    "make_noise",
    [
        noise_forgotten,
        noise_without_clipping_norm,
        noise_of_half_the_variance,
        noise_once_for_all_steps,
        noise_once_for_all_parameters,
        noise_that_cancels_between_steps,
    ],
)
def test_planted_bugs_in_gradient_noise_are_seen(make_noise: Noise) -> None:
    with pytest.raises(CheckError):
        check_gradient_noise(make_noise)


# --- an empty batch --------------------------------------------------------------------------


def check_empty_batch(noisy_sum: NoisySum) -> None:
    """Releases over no record and over one clipped record look alike: noise of the planned size."""
    mechanism = SGD.model_copy(update={"local_steps": 1})
    for gradients in (np.zeros((0, 2000)), np.full((1, 2000), 1e-9)):
        found = noisy_sum(mechanism, gradients, SecureRandomness())
        expect_noise(found, mechanism.noise_multiplier * mechanism.clipping_norm)


def sum_with_noise(
    mechanism: DpSgd, gradients: NDArray[np.float64], randomness: Randomness
) -> NDArray[np.float64]:
    noise = mechanism.noise(gradients.shape[1], randomness)[0]
    return np.asarray(gradients.sum(axis=0) + noise, np.float64)


def sum_with_noise_unless_empty(
    mechanism: DpSgd, gradients: NDArray[np.float64], randomness: Randomness
) -> NDArray[np.float64]:
    if len(gradients) == 0:
        return np.zeros(gradients.shape[1])
    return sum_with_noise(mechanism, gradients, randomness)


def mean_with_noise_over_the_batch(
    mechanism: DpSgd, gradients: NDArray[np.float64], randomness: Randomness
) -> NDArray[np.float64]:
    return sum_with_noise(mechanism, gradients, randomness) / (1 + len(gradients))


def test_an_empty_batch_is_released_with_noise() -> None:
    check_empty_batch(sum_with_noise)


@pytest.mark.parametrize("noisy_sum", [sum_with_noise_unless_empty, mean_with_noise_over_the_batch])
def test_planted_bugs_with_empty_batches_are_seen(noisy_sum: NoisySum) -> None:
    with pytest.raises(CheckError):
        check_empty_batch(noisy_sum)


# --- plans that know too much ----------------------------------------------------------------


def check_plan_ignores_records(make_plan: MakePlan) -> None:
    records = np.linspace(0, 1, 500)
    plan = make_plan(records)
    expect(make_plan(records[:-1]) == plan, "the same plan with a record less")
    expect(make_plan(np.append(records, 40.0)) == plan, "the same plan with a record more")


@lru_cache
def _plan(sampling_probability: float = 0.1, clipping_norm: float = 1.0, num_rounds: int = 2) -> PrivacyPlan:
    demand = Demand(
        column_histograms=1,
        feature_histograms=0,
        score_histograms=1,
        sampling_probability=sampling_probability,
        clipping_norm=clipping_norm,
        num_rounds=num_rounds,
        local_steps=1,
        keyed=False,
    )
    shares = Shares.model_validate({})
    return calibrate(demand, epsilon_target=8.0, delta=1e-5, shares=shares, randomness="secure")


def plan_from_settings(records: NDArray[np.float64]) -> PrivacyPlan:
    return _plan()


def plan_with_a_fixed_batch_size(records: NDArray[np.float64]) -> PrivacyPlan:
    return _plan(sampling_probability=50 / len(records))


def plan_with_rounds_from_an_epoch(records: NDArray[np.float64]) -> PrivacyPlan:
    return _plan(num_rounds=math.ceil(len(records) / 250))


def plan_with_clipping_at_the_largest_record(records: NDArray[np.float64]) -> PrivacyPlan:
    return _plan(clipping_norm=float(np.abs(records).max()))


def test_the_plan_is_a_function_of_public_settings() -> None:
    check_plan_ignores_records(plan_from_settings)


@pytest.mark.parametrize(
    "make_plan",
    [
        plan_with_a_fixed_batch_size,
        plan_with_rounds_from_an_epoch,
        plan_with_clipping_at_the_largest_record,
    ],
)
def test_plans_computed_from_records_are_seen(make_plan: MakePlan) -> None:
    with pytest.raises(CheckError):
        check_plan_ignores_records(make_plan)


# --- weights ---------------------------------------------------------------------------------


def check_sensitivity(update: NoisySum) -> None:
    """One record more moves a client's update by at most the clipping norm, which the noise is for."""
    mechanism = SGD.model_copy(update={"local_steps": 1, "noise_multiplier": 1e-9})
    gradients = np.tile(np.array([mechanism.clipping_norm, 0.0]), (41, 1))
    before, after = (update(mechanism, part, SecureRandomness()) for part in (gradients[:-1], gradients))
    moved = float(np.linalg.norm(after - before))
    expect(moved <= mechanism.clipping_norm * (1 + 1e-6), "a sensitivity of the clipping norm")


def sum_weighted_by_the_number_of_records(
    mechanism: DpSgd, gradients: NDArray[np.float64], randomness: Randomness
) -> NDArray[np.float64]:
    return sum_with_noise(mechanism, gradients, randomness) * len(gradients) / 40


def test_a_sum_has_the_sensitivity_that_its_noise_is_for() -> None:
    check_sensitivity(sum_with_noise)


def test_weights_computed_from_the_number_of_records_are_seen() -> None:
    with pytest.raises(CheckError):
        check_sensitivity(sum_weighted_by_the_number_of_records)
