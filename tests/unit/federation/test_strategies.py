"""Strategies: by hand, against Flower's own on the same updates, and by property."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedpipe.federation import flower_compat  # noqa: F401  first: it keeps the import of flwr light
from fedpipe.federation.strategies import (
    Strategy,
    fedadagrad,
    fedadam,
    fedavg,
    fedavgm,
    fedyogi,
    make_strategy,
)
from fedpipe.learning import TrainingSettings

from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict  # isort: skip
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi  # isort: skip

SCALED = {"beta_1": 0.8, "beta_2": 0.95, "tau": 0.01}
ALL = {
    "fedavg": fedavg(),
    "fedavgm": fedavgm(momentum=0.7),
    "fedadagrad": fedadagrad(tau=0.01),
    "fedadam": fedadam(**SCALED),
    "fedyogi": fedyogi(**SCALED),
}
ETA = 0.3


def walk(strategy: Strategy, gradients: Iterable[NDArray[np.float64]], start: NDArray[np.float64]) -> Any:
    weights, moments = start, strategy.start(start.size)
    for server_round, gradient in enumerate(gradients, start=1):
        direction, moments = strategy.step(moments, gradient, server_round)
        weights = weights - ETA * direction
        yield weights


def one(strategy: Strategy, *gradients: float) -> list[float]:
    """Returns the directions that a single weight is sent in."""
    moments, found = strategy.start(1), []
    for server_round, gradient in enumerate(gradients, start=1):
        direction, moments = strategy.step(moments, np.array([gradient]), server_round)
        found.append(float(direction[0]))
    return found


def test_fedavg_follows_the_aggregate() -> None:
    assert one(fedavg(), 3.0, -1.0) == [3.0, -1.0]


def test_momentum_by_hand() -> None:
    assert one(fedavgm(momentum=0.5), 4.0, 0.0, 1.0) == [4.0, 2.0, 2.0]


def test_adagrad_by_hand() -> None:
    # Squares add up to 9, then 25: 3 / (3 + 1) and 4 / (5 + 1).
    assert one(fedadagrad(tau=1.0), 3.0, 4.0) == pytest.approx([3 / 4, 4 / 6])


def test_adam_by_hand() -> None:
    found = one(fedadam(beta_1=0.5, beta_2=0.75, tau=0.5), 2.0, 0.0)
    # Means 1, 0.5; squares 1, 0.75; corrections sqrt(1 - 0.75) / (1 - 0.5) = 1, sqrt(1 - 0.5625) / 0.75.
    assert found == pytest.approx([1 / 1.5, (0.4375**0.5 / 0.75) * 0.5 / (0.75**0.5 + 0.5)])


def test_yogi_by_hand() -> None:
    found = one(fedyogi(beta_1=0.0, beta_2=0.75, tau=1.0), 2.0, 0.5)
    # The square rises from 0 by 0.25 * 4 to 1, then falls by 0.25 * 0.25 (adam's would fall to 0.8125).
    assert found == pytest.approx([2 / 2, 0.5 / (0.9375**0.5 + 1)])


UPDATES = np.random.default_rng(3).normal(size=(6, 3, 4))  # rounds, clients, weights
START = np.array([1.0, -2.0, 0.0, 0.5])


def replies(weights: NDArray[np.float64], updates: NDArray[np.float64]) -> list[Message]:
    """Clients of equal weight that took one step of size 1 each."""
    return [
        Message(
            RecordDict(
                {
                    "arrays": ArrayRecord({"w": Array(weights - update)}),
                    "metrics": MetricRecord({"num-examples": 1}),
                }
            ),
            dst_node_id=1,
            message_type="train",
        )
        for update in updates
    ]


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("fedavgm", FedAvgM(server_learning_rate=ETA, server_momentum=0.7)),
        ("fedadagrad", FedAdagrad(eta=ETA, tau=0.01)),
        ("fedadam", FedAdam(eta=ETA, **SCALED)),
        ("fedyogi", FedYogi(eta=ETA, **SCALED)),
    ],
)
def test_weights_are_those_of_flower_s_strategy(name: str, theirs: Any) -> None:
    ours = walk(ALL[name], UPDATES.mean(axis=1), START)
    weights = START
    for number, updates in enumerate(UPDATES):
        # As configure_train does; Flower's FedAvgM remembers its own.
        if not isinstance(theirs, FedAvgM):
            theirs.current_arrays = {"w": weights}
        elif number == 0:
            theirs.current_arrays = ArrayRecord({"w": Array(weights)})
        # Flower's correction counts one round more than were made; from 0 it counts right.
        aggregated, _ = theirs.aggregate_train(number, replies(weights, updates))
        weights = aggregated["w"].numpy()
        assert weights == pytest.approx(next(ours), rel=1e-12, abs=1e-14)


def test_a_step_of_size_one_is_flower_s_fedavg() -> None:
    aggregated, _ = FedAvg().aggregate_train(1, replies(START, UPDATES[0]))
    direction, _ = fedavg().step({}, UPDATES[0].mean(axis=0), 1)
    assert aggregated is not None
    assert aggregated["w"].numpy() == pytest.approx(START - direction, rel=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_a_gradient_of_zero_is_safe_from_the_start(name: str) -> None:
    assert one(ALL[name], 0.0, 0.0, 0.0) == [0.0, 0.0, 0.0]


GRADIENTS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12)


@pytest.mark.parametrize("name", ALL)
@given(gradients=GRADIENTS)
def test_directions_are_finite_and_odd(name: str, gradients: list[float]) -> None:
    found = one(ALL[name], *gradients)
    assert np.isfinite(found).all()
    assert one(ALL[name], *(-gradient for gradient in gradients)) == [-direction for direction in found]


@pytest.mark.parametrize("name", ALL)
@given(gradients=GRADIENTS)
def test_state_is_not_changed_in_place(name: str, gradients: list[float]) -> None:
    strategy = ALL[name]
    moments = strategy.start(1)
    _, moments = strategy.step(moments, np.array([1.0]), 1)
    before = {key: moment.copy() for key, moment in moments.items()}
    for gradient in gradients:
        strategy.step(moments, np.array([gradient]), 2)
    assert all((moments[key] == moment).all() for key, moment in before.items())


@pytest.mark.parametrize("name", ["fedadagrad", "fedadam"])
def test_scaled_steps_hardly_depend_on_the_gradients_scale(name: str) -> None:
    make = {"fedadagrad": fedadagrad(tau=1e-9), "fedadam": fedadam(beta_1=0.9, beta_2=0.99, tau=1e-9)}[name]
    assert one(make, 1.0, -2.0, 0.5) == pytest.approx(one(make, 1000.0, -2000.0, 500.0))


@pytest.mark.parametrize(
    ("changes", "moments"),
    [
        ({}, ()),
        ({"momentum": 0.0}, ()),
        ({"momentum": 0.5}, ("velocity",)),
        ({"strategy": "fedavgm"}, ("velocity",)),
        ({"strategy": "fedprox"}, ()),
        ({"strategy": "fedprox", "momentum": 0.5}, ("velocity",)),
        ({"strategy": "fedadagrad"}, ("second",)),
        ({"strategy": "fedadam"}, ("first", "second")),
        ({"strategy": "fedyogi"}, ("first", "second")),
    ],
)
def test_settings_choose_the_strategy(changes: dict[str, Any], moments: tuple[str, ...]) -> None:
    assert make_strategy(TrainingSettings.model_validate(changes)).moments == moments


def test_settings_reach_the_strategy() -> None:
    chosen = make_strategy(TrainingSettings.model_validate({"strategy": "fedyogi", **SCALED}))
    assert one(chosen, 1.0, 0.3, -2.0) == one(fedyogi(**SCALED), 1.0, 0.3, -2.0)
