"""Bugs in what is done *around* the mechanisms, planted to show that simple checks see them.

Noise left out for empty batches, plans and weights that depend on the records. Each check
passes for the real thing (a false alarm has a probability below 1e-6).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
from numpy.typing import NDArray

from fedpipe.privacy import Demand, DpSgd, PrivacyPlan, Randomness, SecureRandomness, Shares, calibrate

NoisySum = Callable[[DpSgd, NDArray[np.float64], Randomness], NDArray[np.float64]]
MakePlan = Callable[[NDArray[np.float64]], PrivacyPlan]

SGD = DpSgd(sampling_probability=0.2, clipping_norm=0.5, noise_multiplier=3.0, num_rounds=10, local_steps=1)
SIGMAS = 6.0


class CheckError(AssertionError):
    """A release that is not what it is charged for."""


def expect(holds: bool, what: str) -> None:
    if not holds:
        raise CheckError(f"Expected {what}.")


# --- an empty batch --------------------------------------------------------------------------


def check_empty_batch(noisy_sum: NoisySum) -> None:
    """Releases over no record and over one clipped record look alike: noise of the planned size."""
    variance = (SGD.noise_multiplier * SGD.clipping_norm) ** 2
    for gradients in (np.zeros((0, 2000)), np.full((1, 2000), 1e-9)):
        found = noisy_sum(SGD, gradients, SecureRandomness())
        bound = SIGMAS * math.sqrt(2 / found.size)
        expect(abs(found.var() / variance - 1) < bound, "noise of the planned size")


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
def _plan(sampling_probability: float = 0.5, clipping_norm: float = 1.0, num_rounds: int = 20) -> PrivacyPlan:
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
    return calibrate(demand, epsilon_target=0.5, delta=1e-5, shares=shares, randomness="secure")


def plan_from_settings(records: NDArray[np.float64]) -> PrivacyPlan:
    return _plan()


def plan_with_a_fixed_batch_size(records: NDArray[np.float64]) -> PrivacyPlan:
    return _plan(sampling_probability=250 / len(records))


def plan_with_rounds_from_an_epoch(records: NDArray[np.float64]) -> PrivacyPlan:
    return _plan(num_rounds=math.ceil(len(records) / 25))


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
    mechanism = SGD.model_copy(update={"noise_multiplier": 1e-9})
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
