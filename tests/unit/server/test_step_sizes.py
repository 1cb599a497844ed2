"""Step sizes: what `auto` comes to for each strategy, by hand and by what noise does with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fedpipe.federation.schedules import schedule_factors
from fedpipe.federation.strategies import fedadam, fedavg, make_strategy
from fedpipe.learning import TrainingSettings
from fedpipe.privacy import DpSgd, PrivacyPlan
from server.steps.asking import Asker
from server.steps.step_sizes import (
    MAX_LEARNING_RATE,
    MAX_SCALED_LEARNING_RATE,
    NOISE_DRIFT,
    choose_learning_rate,
    choose_step_sizes,
    noise_drift,
    strategy_note,
)

SCALED = ["fedadagrad", "fedadam", "fedyogi"]


@pytest.fixture
def plan(make_asker: Callable[..., Asker]) -> PrivacyPlan:
    return make_asker({}).terms.plan


NUM_ROUNDS = 40
FEW = 3.0  # records: so few that noise bounds every step size


def settings(**changes: Any) -> TrainingSettings:
    return TrainingSettings.model_validate({"num_rounds": NUM_ROUNDS} | changes)


def noise_stddev(plan: PrivacyPlan, size: float, num_clients: int = 1) -> float:
    """Returns the noise of one weight in a round's mean gradient."""
    mechanism = plan.queries["training"].mechanism
    assert isinstance(mechanism, DpSgd)
    stddev = mechanism.noise_multiplier * mechanism.clipping_norm
    stddev *= math.sqrt(num_clients * mechanism.local_steps)
    return stddev / (mechanism.sampling_probability * size)


def test_a_configured_learning_rate_is_taken(plan: PrivacyPlan) -> None:
    for strategy in ("fedavg", "fedadam"):
        assert (
            choose_learning_rate(settings(learning_rate=0.125, strategy=strategy), plan, {"a": 9.0}) == 0.125
        )


def test_an_automatic_learning_rate_shrinks_with_noise_and_grows_with_data(plan: PrivacyPlan) -> None:
    few = choose_learning_rate(settings(), plan, {"a": FEW})
    many = choose_learning_rate(settings(), plan, {"a": 2 * FEW})
    assert 0 < few < many < MAX_LEARNING_RATE
    assert few == pytest.approx(NOISE_DRIFT / (noise_stddev(plan, FEW) * math.sqrt(NUM_ROUNDS)))
    assert choose_learning_rate(settings(), plan, {"a": 1e9}) == MAX_LEARNING_RATE
    assert choose_learning_rate(settings(), plan, {"a": -50.0}) > 0
    for strategy in ("fedavg", "fedavgm", "fedprox"):
        with_momentum = settings(momentum=0.5, strategy=strategy)
        assert choose_learning_rate(with_momentum, plan, {"a": FEW}) == pytest.approx(few / 2)


@pytest.mark.parametrize(
    ("strategy", "largest"),
    [("fedavg", MAX_LEARNING_RATE), ("fedavgm", 0.1 * MAX_LEARNING_RATE)]
    + [(strategy, MAX_SCALED_LEARNING_RATE) for strategy in SCALED],
)
def test_without_noise_an_automatic_learning_rate_is_the_largest(
    plan: PrivacyPlan, strategy: str, largest: float
) -> None:
    bare = PrivacyPlan.model_validate(plan.model_dump() | {"private": False, "queries": {}})
    assert choose_learning_rate(settings(strategy=strategy), bare, {"a": 50.0}) == pytest.approx(largest)


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm", *SCALED])
@pytest.mark.parametrize(
    "schedule", [{}, {"learning_rate_schedule": "cosine"}, {"warmup_rounds": 20}], ids=str
)
def test_noise_alone_carries_no_weight_farther_than_it_may(
    plan: PrivacyPlan, strategy: str, schedule: dict[str, Any]
) -> None:
    """Other noise than the rehearsal's, and more of it."""
    training = settings(strategy=strategy, **schedule)
    rate = choose_learning_rate(training, plan, {"a": FEW})
    server, generator = make_strategy(training), np.random.default_rng(11)
    moments, weights = server.start(2000), np.zeros(2000)
    for server_round, factor in enumerate(schedule_factors(training), start=1):
        gradient = generator.normal(0, noise_stddev(plan, FEW), 2000)
        direction, moments = server.step(moments, gradient, server_round)
        weights -= rate * factor * direction
    # Momentum is bounded by what it would carry in the long run, so fewer rounds carry less; fedadagrad's
    # steps shrink by themselves, and the largest rate bounds it.
    least = {"fedavgm": 0.5, "fedadagrad": 0.2}.get(strategy, 0.85)
    assert least * NOISE_DRIFT < np.sqrt(np.mean(weights**2)) < 1.15 * NOISE_DRIFT


def test_drift_of_plain_steps_is_that_of_a_random_walk() -> None:
    assert noise_drift(fedavg(), [1.0] * 100, 0.3) == pytest.approx(3.0, rel=0.15)


def test_without_noise_nothing_drifts() -> None:
    assert noise_drift(fedadam(beta_1=0.9, beta_2=0.99, tau=1e-3), [1.0] * 9, 0.0) == 0.0


def test_the_rehearsal_is_the_same_each_time(plan: PrivacyPlan) -> None:
    """Or a resumed run would go on with another step size."""
    rates = {choose_learning_rate(settings(strategy="fedyogi"), plan, {"a": FEW}) for _ in range(3)}
    assert len(rates) == 1


@pytest.mark.parametrize("strategy", SCALED)
def test_local_steps_beside_scaled_steps_take_fedavg_s_rate(plan: PrivacyPlan, strategy: str) -> None:
    sizes = {"a": 20.0, "b": 10.0}
    plain = choose_step_sizes(settings(local_steps=3), plan, sizes, least_size=0)
    scaled = choose_step_sizes(settings(local_steps=3, strategy=strategy), plan, sizes, least_size=0)
    assert scaled.local == plain.local
    assert scaled.server != plain.server
    assert plain.local["a"] == pytest.approx(plain.server / (0.3 * 20))


def test_a_local_learning_rate_is_taken_whatever_the_server_s(plan: PrivacyPlan) -> None:
    training = settings(local_steps=2, local_learning_rate=0.6, strategy="fedadam", sampling_probability=0.5)
    steps = choose_step_sizes(training, plan, {"a": 4.0, "b": -1.0}, least_size=2.0)
    assert steps.local == pytest.approx({"a": 0.6 / 2, "b": 0.6 / 1})


def test_local_momentum_steps_shorter_since_it_goes_on(plan: PrivacyPlan) -> None:
    sizes = {"a": 20.0, "b": 10.0}
    plain = choose_step_sizes(settings(local_steps=3), plan, sizes, least_size=0)
    heavy = choose_step_sizes(settings(local_steps=3, local_optimizer="momentum"), plan, sizes, least_size=0)
    assert heavy.server == plain.server
    assert heavy.local == pytest.approx({name: 0.1 * size for name, size in plain.local.items()})


def test_local_adam_steps_alike_whatever_the_size(plan: PrivacyPlan) -> None:
    sizes = {"a": 20.0, "b": 10.0}
    adam = settings(local_steps=5, local_optimizer="adam")
    assert choose_step_sizes(adam, plan, sizes, least_size=0).local == pytest.approx({"a": 0.02, "b": 0.02})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [({"local_steps": 1}, "local_steps > 1"), ({"strategy": "fedprox", "local_steps": 2}, "plain steps")],
)
def test_local_optimizers_that_could_do_nothing_or_lengthen_noise_are_refused(
    changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        settings(local_optimizer="momentum", **changes)


def test_single_local_steps_need_no_sizes(plan: PrivacyPlan) -> None:
    steps = choose_step_sizes(settings(strategy="fedprox"), plan, {"a": 9.0}, least_size=0)
    assert (steps.local, steps.proximal_mus) == ({}, {})


@pytest.mark.parametrize("mu", [0.001, 0.1, 1.0, 50.0])
def test_no_pull_reaches_beyond_its_aim(plan: PrivacyPlan, mu: float) -> None:
    """Clients refuse a task whose product of step and mu is above one."""
    training = settings(strategy="fedprox", local_steps=2, proximal_mu=mu, learning_rate=3.0)
    steps = choose_step_sizes(training, plan, {"a": 20.0, "b": -3.0}, least_size=1.0)
    products = [steps.local[name] * steps.proximal_mus[name] for name in ("a", "b")]
    assert products == pytest.approx([min(3 * mu, 0.999)] * 2)
    assert all(product <= 1 for product in products)


def test_only_fedprox_without_local_steps_is_worth_a_note() -> None:
    assert "no effect" in str(strategy_note(settings(strategy="fedprox")))
    assert strategy_note(settings(strategy="fedprox", local_steps=2)) is None
    assert strategy_note(settings()) is None
