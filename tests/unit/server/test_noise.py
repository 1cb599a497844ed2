"""What is said before training about noise: right by hand, silent where there is none."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import pytest

from fedpipe.federation.terms import RunTerms
from fedpipe.privacy import PrivacyPlan
from server.steps.noise import LOUD, noise_advice, noise_to_signal, round_noise


def test_noise_to_signal_by_hand(make_terms: Callable[..., RunTerms]) -> None:
    # z = 2, q = 0.5, 3 rounds of 2 steps: 2 sqrt(2 clients * 8 parameters) / (0.5 * 400 records) / sqrt(6)
    plan = make_terms().plan
    found = noise_to_signal(plan, {"a": 100.0, "b": 300.0}, 8)
    assert found == pytest.approx(2 * 4 / 200 / sqrt(6))


def test_a_round_s_noise_is_that_of_the_whole_signal_over_all_rounds(
    make_terms: Callable[..., RunTerms],
) -> None:
    plan = make_terms().plan
    sizes = {"a": 100.0, "b": 300.0}
    one_round = round_noise(plan, sum(sizes.values()), 2, 8)
    # Three rounds of two steps: noise adds up over the steps of a round, signals over all six.
    assert one_round / (2 * sqrt(3)) == pytest.approx(noise_to_signal(plan, sizes, 8))
    open_plan = PrivacyPlan.model_construct(**{**dict(plan), "queries": {}})
    assert round_noise(open_plan, 400.0, 2, 8) == 0


def test_noise_falls_with_records_and_grows_with_parameters_and_clients(
    make_terms: Callable[..., RunTerms],
) -> None:
    plan = make_terms().plan
    base = noise_to_signal(plan, {"a": 100.0, "b": 100.0}, 10)
    assert base is not None
    assert noise_to_signal(plan, {"a": 200.0, "b": 200.0}, 10) == pytest.approx(base / 2)
    assert noise_to_signal(plan, {"a": 100.0, "b": 100.0}, 40) == pytest.approx(2 * base)
    assert noise_to_signal(plan, {f"c{n}": 25.0 for n in range(8)}, 10) == pytest.approx(2 * base)


@pytest.mark.parametrize("size", [0.0, -50.0])
def test_noisy_counts_below_one_leave_it_finite(make_terms: Callable[..., RunTerms], size: float) -> None:
    found = noise_to_signal(make_terms().plan, {"a": size}, 10)
    assert found is not None
    assert 0 < found < 1e3


def test_without_noise_there_is_nothing_to_say(make_terms: Callable[..., RunTerms]) -> None:
    plan = make_terms().plan
    open_plan = PrivacyPlan.model_construct(**{**dict(plan), "queries": {}})
    assert noise_to_signal(open_plan, {"a": 100.0}, 10) is None
    assert noise_advice(None, plan, 10) is None
    assert noise_advice(LOUD / 2, plan, 10) is None


def test_advice_names_what_would_help(make_terms: Callable[..., RunTerms]) -> None:
    advice = noise_advice(0.37, make_terms().plan, 1210)
    assert advice is not None
    assert "37%" in advice
    assert "privacy.epsilon=16" in advice
    assert "1210 parameters" in advice
