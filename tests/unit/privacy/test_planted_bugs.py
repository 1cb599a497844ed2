"""Statistical checks of the mechanisms, and bugs planted to show that the checks see them.

Each check passes for the real mechanism (a false alarm has a probability below 1e-6) and fails
for mechanisms that leak: noise forgotten, too small, used twice or left out, batches that are
no Poisson samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import pytest
from numpy.typing import NDArray

from fedpipe.privacy import DpSgd, NoisyHistograms, Randomness, SecureRandomness

Arrays = dict[str, NDArray[np.int64]]
Release = Callable[[NoisyHistograms, Mapping[str, NDArray[np.int64]], Randomness], Arrays]
Sample = Callable[[DpSgd, int, Randomness], list[NDArray[np.int32]]]
Noise = Callable[[DpSgd, int, Randomness], NDArray[np.float32]]

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
    half = SGD.local_steps // 2
    expect_uncorrelated(noise[:half], noise[half:], stddev)  # what different threads drew
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


@lru_cache
def _kept_gradient_noise(size: int) -> NDArray[np.float32]:
    return SGD.noise(size, SecureRandomness())


def noise_of_the_last_release(mechanism: DpSgd, size: int, randomness: Randomness) -> NDArray[np.float32]:
    return _kept_gradient_noise(size)


def noise_of_one_stream_for_both_threads(
    mechanism: DpSgd, size: int, randomness: Randomness
) -> NDArray[np.float32]:
    noise = mechanism.noise(size, randomness)
    half = len(noise) // 2
    noise[half:] = noise[:half]
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
        noise_of_the_last_release,
        noise_of_one_stream_for_both_threads,
    ],
)
def test_planted_bugs_in_gradient_noise_are_seen(make_noise: Noise) -> None:
    with pytest.raises(CheckError):
        check_gradient_noise(make_noise)
