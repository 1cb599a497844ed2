from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.pld import privacy_loss_distribution as pld
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedpipe.errors import PrivacyError
from fedpipe.privacy import (
    DiscreteGaussianDpEvent,
    DpSgd,
    NoisyHistograms,
    SecureRandomness,
    SeededRandomness,
    epsilon,
    mechanisms,
)
from fedpipe.privacy.accounting import renyi_divergence
from fedpipe.privacy.mechanisms import poisson_batches

SIGMAS = 6.0


def dp_sgd(**change: float) -> DpSgd:
    settings = {
        "sampling_probability": 0.1,
        "clipping_norm": 3.0,
        "noise_multiplier": 2.0,
        "num_rounds": 7,
        "local_steps": 4,
    }
    return DpSgd.model_validate(settings | change)


# --- DP-SGD ---------------------------------------------------------------------------------


@pytest.mark.parametrize("num_records", [0, 1, 30, 2000])
@pytest.mark.parametrize("num_parameters", [1, 500])
def test_no_honest_sum_is_longer_than_the_longest(num_records: int, num_parameters: int) -> None:
    """Though every gradient has the clipping norm and all point the same way."""
    mechanism, randomness = dp_sgd(), SeededRandomness([num_records, num_parameters])
    longest = mechanism.longest_release(num_records, num_parameters)
    norms = []
    for _ in range(300):
        total = mechanism.noise(num_parameters, randomness).sum(axis=0, dtype=np.float64)
        drawn = sum(len(batch) for batch in mechanism.sample(num_records, randomness))
        total[0] += mechanism.clipping_norm * drawn
        norms.append(float(np.linalg.norm(total)))
    assert max(norms) <= longest < 10 * max(norms)


def test_the_cost_of_a_round_is_that_of_its_local_steps() -> None:
    step = dp_event.PoissonSampledDpEvent(0.1, dp_event.GaussianDpEvent(2.0))
    assert dp_sgd().event == dp_event.SelfComposedDpEvent(step, 4)
    assert dp_sgd().num_releases == 7


def test_batch_sizes_vary_as_poisson_sampling_says() -> None:
    num_records, rounds = 400, 500
    mechanism = dp_sgd()
    sizes = np.array(
        [len(b) for _ in range(rounds) for b in mechanism.sample(num_records, SeededRandomness(_seed()))]
    )
    mean, variance = 40.0, 36.0
    assert abs(sizes.mean() - mean) < SIGMAS * math.sqrt(variance / len(sizes))
    assert abs(sizes.var() / variance - 1) < SIGMAS * math.sqrt(2 / len(sizes))


def _seed(counter: list[int] = [0]) -> list[int]:  # noqa: B006
    counter[0] += 1
    return [11, counter[0]]


def test_records_are_drawn_independently_of_each_other() -> None:
    num_records, draws = 20, 20_000
    mechanism = dp_sgd(sampling_probability=0.3, local_steps=draws)
    chosen = np.zeros((draws, num_records))
    for row, batch in enumerate(mechanism.sample(num_records, SeededRandomness(5))):
        chosen[row, batch] = 1
    rates = chosen.mean(axis=0)
    assert np.abs(rates - 0.3).max() < SIGMAS * math.sqrt(0.21 / draws)
    correlation = np.corrcoef(chosen.T) - np.eye(num_records)
    assert np.abs(correlation).max() < SIGMAS / math.sqrt(draws)
    assert abs(np.corrcoef(chosen[:-1, 0], chosen[1:, 0])[0, 1]) < SIGMAS / math.sqrt(draws)


@given(st.integers(0, 50), st.integers(1, 5))
def test_batches_hold_row_numbers_at_most_once(num_records: int, local_steps: int) -> None:
    batches = dp_sgd(local_steps=local_steps, sampling_probability=0.5).sample(
        num_records, SeededRandomness(3)
    )
    assert len(batches) == local_steps
    for batch in batches:
        assert batch.dtype == np.int32
        assert len(set(batch.tolist())) == len(batch)
        assert all(0 <= row < num_records for row in batch)


def test_an_empty_shard_gives_empty_batches_and_noise_all_the_same() -> None:
    mechanism = dp_sgd()
    assert [len(batch) for batch in mechanism.sample(0, SecureRandomness())] == [0, 0, 0, 0]
    noise = mechanism.noise(100, SecureRandomness())
    assert noise.shape == (4, 100)
    assert np.count_nonzero(noise) == 400


def test_sampling_everything_takes_everything() -> None:
    for batch in dp_sgd(sampling_probability=1.0).sample(5, SecureRandomness()):
        assert batch.tolist() == [0, 1, 2, 3, 4]


def test_noise_has_the_size_of_multiplier_times_clipping_norm() -> None:
    noise = dp_sgd().noise(50_000, SecureRandomness())
    assert noise.shape == (4, 50_000)
    assert noise.dtype == np.float32
    expected = 2.0 * 3.0
    assert abs(noise.mean()) < SIGMAS * expected / math.sqrt(noise.size)
    for step in noise.astype(np.float64):
        assert abs(step.var() / expected**2 - 1) < SIGMAS * math.sqrt(2 / step.size)


# --- histograms -----------------------------------------------------------------------------


def test_the_cost_of_histograms_is_that_of_one_count_in_each() -> None:
    mechanism = NoisyHistograms(noise_stddev=4.0, num_histograms=3)
    assert mechanism.event == dp_event.SelfComposedDpEvent(DiscreteGaussianDpEvent(4.0), 3)
    assert mechanism.num_releases == 1


@pytest.mark.parametrize(("noise_stddev", "max_records"), [(40.0, 5), (3.0, 2), (200.0, 40), (6.0, 3)])
def test_counts_of_several_records_cost_what_moving_one_cell_by_all_of_them_costs(
    noise_stddev: float, max_records: int
) -> None:
    """By dp-accounting's own discrete Gaussian of that sensitivity: never less, within 1 %."""
    mechanism = NoisyHistograms(noise_stddev=noise_stddev, num_histograms=1, max_records=max_records)
    one_cell = pld.from_discrete_gaussian_mechanism(noise_stddev, sensitivity=max_records)
    gaussian = pld.from_gaussian_mechanism(noise_stddev / max_records)
    ours = epsilon([mechanism.event], 1e-5)
    for other in (one_cell, gaussian):
        assert 0.999 < ours / other.get_epsilon_for_delta(1e-5) < 1.01


def test_a_bound_on_records_that_is_not_charged_is_seen() -> None:
    """A planted bug: noise of the same size, charged for one record."""
    charged = NoisyHistograms(noise_stddev=40.0, num_histograms=1, max_records=5)
    bug = NoisyHistograms(noise_stddev=40.0, num_histograms=1)
    assert epsilon([bug.event], 1e-5) < 0.25 * epsilon([charged.event], 1e-5)
    for order in (2, 16):
        assert renyi_divergence(charged.event, order) == pytest.approx(order / 2 * (5 / 40) ** 2)


def test_noise_for_several_records_has_the_size_that_is_stated() -> None:
    mechanism = NoisyHistograms(noise_stddev=8.0, num_histograms=1, max_records=4)
    for randomness in (SecureRandomness(), SeededRandomness(1)):
        found = mechanism.release({"a": np.zeros(20_000, np.int64)}, randomness, num_histograms=1)["a"]
        assert abs(found.astype(float).var() / 64 - 1) < SIGMAS * math.sqrt(2 / found.size)


def test_noisy_histograms_keep_names_shapes_and_integers() -> None:
    arrays = {"a": np.zeros((2, 3), np.int64), "b": np.full(5, 7), "c": np.zeros((0, 4), np.int64)}
    mechanism = NoisyHistograms(noise_stddev=2.0, num_histograms=3)
    found = mechanism.release(arrays, SeededRandomness(1), num_histograms=3)
    assert {name: array.shape for name, array in found.items()} == {"a": (2, 3), "b": (5,), "c": (0, 4)}
    assert all(array.dtype == np.int64 for array in found.values())
    assert arrays["b"].tolist() == [7] * 5


def test_noise_is_added_to_the_exact_counts() -> None:
    mechanism = NoisyHistograms(noise_stddev=1e-3, num_histograms=2)  # noise that is always 0
    arrays = {"a": np.arange(6).reshape(2, 3), "b": np.array([9, 8])}
    found = mechanism.release(arrays, SecureRandomness(), num_histograms=2)
    assert found["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["b"].tolist() == [9, 8]


def test_no_array_is_no_release() -> None:
    mechanism = NoisyHistograms(noise_stddev=1.0, num_histograms=1)
    assert mechanism.release({}, SecureRandomness(), num_histograms=0) == {}


def test_more_histograms_than_planned_are_refused() -> None:
    mechanism = NoisyHistograms(noise_stddev=1.0, num_histograms=2)
    with pytest.raises(PrivacyError, match="at most 2 histograms as planned, found 3"):
        mechanism.release({"a": np.zeros((3, 4), np.int64)}, SecureRandomness(), num_histograms=3)


def test_float_counts_are_no_counts() -> None:
    mechanism = NoisyHistograms(noise_stddev=1.0, num_histograms=1)
    with pytest.raises(PrivacyError, match="integer"):
        mechanism.release({"a": np.array([0.5])}, SecureRandomness(), num_histograms=1)


@pytest.mark.parametrize("acceptance", [None, np.ones(50, np.float32)])
def test_batches_of_a_large_shard_are_drawn_one_by_one_and_alike(
    acceptance: NDArray[np.float32] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = poisson_batches(0.3, 6, 50, SeededRandomness(3), acceptance)
    monkeypatch.setattr(mechanisms, "MAX_COINS", 120)
    apart = poisson_batches(0.3, 6, 50, SeededRandomness(3), acceptance)
    assert [rows.tolist() for rows in apart] == [rows.tolist() for rows in together]
    assert len({tuple(rows.tolist()) for rows in apart}) == 6
