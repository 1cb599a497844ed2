from __future__ import annotations

import itertools
from functools import lru_cache

import pytest
from pydantic import ValidationError

from fedpipe.errors import PrivacyError
from fedpipe.privacy import Demand, DpSgd, NoisyHistograms, PrivacyPlan, Shares, UserUnit, calibrate
from fedpipe.privacy.calibration import gaussian_mu

DELTA = 1e-5
TARGETS = [0.5, 2.0, 8.0]
SHARES = Shares.model_validate({"statistics": 0.1, "preprocess": 0.05, "analyze": 0.2})


def demand(*, keyed: bool = True, feature_histograms: int = 4, slice_histograms: int = 0) -> Demand:
    return Demand(
        slice_histograms=slice_histograms,
        column_histograms=6,
        feature_histograms=feature_histograms,
        score_histograms=3,
        sampling_probability=0.2,
        clipping_norm=1.5,
        num_rounds=30,
        local_steps=2,
        keyed=keyed,
    )


@lru_cache
def plan(
    target: float, *, keyed: bool = True, feature_histograms: int = 4, slice_histograms: int = 0
) -> PrivacyPlan:
    return calibrate(
        demand(keyed=keyed, feature_histograms=feature_histograms, slice_histograms=slice_histograms),
        epsilon_target=target,
        delta=DELTA,
        shares=SHARES,
        randomness="secure",
    )


def noise(found: PrivacyPlan, query: str) -> float:
    mechanism = found.queries[query].mechanism
    return mechanism.noise_multiplier if isinstance(mechanism, DpSgd) else mechanism.noise_stddev


@pytest.mark.parametrize("keyed", [True, False])
@pytest.mark.parametrize("target", TARGETS)
def test_total_epsilon_is_within_the_target_and_nearly_all_of_it(target: float, keyed: bool) -> None:
    found = plan(target, keyed=keyed)
    assert found.epsilon == target
    for split in found.splits:
        assert 0.98 * target < found.epsilon_of(split) <= target
    assert found.total_epsilon() <= target


@pytest.mark.parametrize("keyed", [True, False])
def test_slices_are_paid_by_the_evaluation_alone(keyed: bool) -> None:
    without, found = plan(2.0, keyed=keyed), plan(2.0, keyed=keyed, slice_histograms=2)
    for split in found.splits:
        assert 0.98 * 2 < found.epsilon_of(split) <= 2
    for query in ("labels", "columns", "features"):
        assert found.queries[query] == without.queries[query]
    assert noise(found, "training") == pytest.approx(noise(without, "training"), rel=2e-3)
    # 70 % of the evaluation's share stays with three histograms, 30 % goes to two by slice.
    assert noise(found, "evaluation") / noise(without, "evaluation") == pytest.approx(0.7**-0.5, rel=2e-3)
    ratio = noise(found, "slices") / noise(found, "evaluation")
    assert ratio == pytest.approx((2 / 0.3 / (3 / 0.7)) ** 0.5, rel=2e-3)


@pytest.mark.parametrize("keyed", [True, False])
def test_more_epsilon_means_less_noise_everywhere(keyed: bool) -> None:
    for tight, loose in itertools.pairwise(TARGETS):
        for query in plan(tight, keyed=keyed).queries:
            assert noise(plan(tight, keyed=keyed), query) > noise(plan(loose, keyed=keyed), query)


@pytest.mark.parametrize("keyed", [True, False])
def test_every_step_gets_its_share_of_mu_squared(keyed: bool) -> None:
    found = plan(2.0, keyed=keyed)

    def part(query: str) -> float:
        mechanism = found.queries[query].mechanism
        assert isinstance(mechanism, NoisyHistograms)
        return mechanism.num_histograms / mechanism.noise_stddev**2 / gaussian_mu(2.0, DELTA) ** 2

    assert part("labels") == pytest.approx(0.05)
    assert part("columns") == pytest.approx(0.05)
    assert part("features") == pytest.approx(0.05)
    if keyed:  # evaluation has other records, and what validation left of their budget
        assert part("evaluation") == pytest.approx(0.9, rel=0.01)
    else:
        assert part("evaluation") == pytest.approx(0.2)


def test_an_unused_share_goes_to_training() -> None:
    without = plan(2.0, feature_histograms=0)
    assert "features" not in without.queries
    assert noise(without, "training") < noise(plan(2.0), "training")
    assert without.total_epsilon() <= 2.0


def test_shared_splits_leave_less_for_training() -> None:
    assert noise(plan(2.0, keyed=False), "training") > noise(plan(2.0), "training")


def test_the_plan_holds_what_was_demanded() -> None:
    mechanism = plan(1.0).queries["training"].mechanism
    assert isinstance(mechanism, DpSgd)
    assert mechanism.model_dump(exclude={"noise_multiplier"}) == {
        "kind": "dp_sgd",
        "sampling_probability": 0.2,
        "clipping_norm": 1.5,
        "num_rounds": 30,
        "local_steps": 2,
    }
    histograms = {
        name: query.mechanism.num_histograms
        for name, query in plan(1.0).queries.items()
        if isinstance(query.mechanism, NoisyHistograms)
    }
    assert histograms == {"labels": 1, "columns": 6, "features": 4, "evaluation": 3}


def test_calibration_repeats() -> None:
    again = calibrate(demand(), epsilon_target=1.0, delta=DELTA, shares=SHARES, randomness="secure")
    assert again == plan(1.0)


@pytest.mark.parametrize(("target", "delta"), [(0.01, 1e-10), (0.01, 0.05), (50.0, 1e-5), (1000.0, 1e-5)])
def test_targets_far_from_the_usual_are_met(target: float, delta: float) -> None:
    found = calibrate(demand(), epsilon_target=target, delta=delta, shares=SHARES, randomness="seeded")
    assert 0.9 * target < found.total_epsilon() <= target


@pytest.mark.parametrize("parts", [(0.5, 0.25, 0.25), (0.9, 0.05, 0.2)])
def test_shares_that_leave_nothing_for_training_are_refused(parts: tuple[float, float, float]) -> None:
    shares = Shares.model_validate(dict(zip(("statistics", "preprocess", "analyze"), parts, strict=True)))
    with pytest.raises(PrivacyError, match="leave a part for training"):
        calibrate(demand(), epsilon_target=1.0, delta=DELTA, shares=shares, randomness="secure")


@pytest.mark.parametrize(
    ("target", "delta"),
    [(0.0, 1e-5), (-1.0, 1e-5), (float("nan"), 1e-5), (1001.0, 1e-5), (1.0, 0.0), (1.0, 1.0), (1.0, 1e-11)],
)
def test_targets_without_a_meaning_are_refused(target: float, delta: float) -> None:
    with pytest.raises(PrivacyError, match="Expected 0 < epsilon"):
        calibrate(demand(), epsilon_target=target, delta=delta, shares=SHARES, randomness="secure")


@pytest.mark.parametrize(
    "change",
    [{"sampling_probability": 0.0}, {"num_rounds": 0}, {"column_histograms": 0}, {"clipping_norm": -1}],
)
def test_a_demand_out_of_range_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Demand.model_validate(demand().model_dump() | change)


def test_gaussian_mu_by_hand() -> None:
    # Balle and Wang 2018: epsilon 1 at delta 1e-5 needs sigma 3.7306.
    assert gaussian_mu(1.0, 1e-5) == pytest.approx(1 / 3.730631634944469, rel=1e-6)


@lru_cache
def plan_for_users(max_records: int) -> PrivacyPlan:
    wanted = demand().model_copy(update={"user": UserUnit(column="patient", max_records=max_records)})
    return calibrate(wanted, epsilon_target=2.0, delta=DELTA, shares=SHARES, randomness="secure")


@pytest.mark.parametrize("max_records", [1, 4])
def test_users_are_promised_the_same_for_more_noise(max_records: int) -> None:
    found = plan_for_users(max_records)
    assert (found.unit, found.max_records) == ("user", max_records)
    for split in found.splits:
        assert 0.98 * 2.0 < found.epsilon_of(split) <= 2.0
    counts = {
        name: query.mechanism
        for name, query in found.queries.items()
        if isinstance(query.mechanism, NoisyHistograms)
    }
    assert {name: each.max_records for name, each in counts.items()} == {
        name: 1 if name == "users" else max_records for name in counts
    }


def test_counts_of_more_records_have_noise_in_proportion() -> None:
    """All records of a user in one cell move it by k: the noise is k times as large."""
    for query in ("labels", "columns", "features"):
        assert noise(plan_for_users(4), query) == pytest.approx(4 * noise(plan_for_users(1), query))
    assert noise(plan_for_users(4), "users") == pytest.approx(noise(plan_for_users(1), "users"))
