from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from dp_accounting import dp_event
from dp_accounting.rdp import RdpAccountant
from pydantic import ValidationError

from fedpipe.config import load_config
from fedpipe.errors import LedgerError, PrivacyError
from fedpipe.ledger import Block, BlockPolicy, policy_for_budget, policy_for_runs
from fedpipe.privacy import PrivacyPlan
from fedpipe.privacy.accounting import ORDERS, renyi_divergence, renyi_to_epsilon
from server.planning import make_plan

Planner = Callable[..., PrivacyPlan]


def test_a_block_has_a_name_of_its_own() -> None:
    assert str(Block(client="ada", span="2024-05", split="train")) == "ada/2024-05/train"


@pytest.mark.parametrize("parts", [("a/b", "c", "d"), ("a", "b/c", "d"), ("a", "b", ""), ("", "b", "c")])
def test_a_block_whose_name_could_be_anothers_is_refused(parts: tuple[str, str, str]) -> None:
    client, span, split = parts
    with pytest.raises(LedgerError, match="without '/'"):
        Block(client=client, span=span, split=split)


def test_renyi_budget_by_hand() -> None:
    # Order 2: tau = epsilon - log(1/2) + log(delta) + log 2.
    policy = BlockPolicy(epsilon=20.0, delta=1e-5, renyi_order=2)
    assert policy.renyi_budget == pytest.approx(20 + 2 * math.log(2) - 5 * math.log(10))


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 3.0, 30.0])
def test_a_lifetime_budget_converts_to_its_epsilon_at_the_best_order(epsilon: float) -> None:
    policy = policy_for_budget(epsilon, 1e-5)
    assert renyi_to_epsilon(policy.renyi_budget, policy.renyi_order, 1e-5) == pytest.approx(epsilon)
    affordable = policy.renyi_budget / policy.renyi_order
    for order in ORDERS:
        other = BlockPolicy(epsilon=epsilon, delta=1e-5, renyi_order=order)
        assert other.renyi_budget / order <= affordable


def test_spending_a_whole_budget_costs_the_epsilon_of_the_policy() -> None:
    policy = policy_for_budget(3.0, 1e-5)
    number = math.floor(policy.renyi_budget / (policy.renyi_order / (2 * 10.0**2)))
    event = dp_event.SelfComposedDpEvent(dp_event.GaussianDpEvent(10.0), number)
    assert RdpAccountant(orders=list(ORDERS)).compose(event).get_epsilon(1e-5) <= 3.0


def test_a_budget_too_small_for_anything_is_refused() -> None:
    with pytest.raises(PrivacyError, match="raise either"):
        policy_for_budget(1e-6, 1e-10)


@pytest.mark.parametrize("keyed", [True, False])
@pytest.mark.parametrize("number", [1, 3, 10])
def test_a_policy_for_runs_affords_exactly_that_many(planner: Planner, keyed: bool, number: int) -> None:
    plan = planner(keyed=keyed)
    policy = policy_for_runs(plan, number)
    costs = [
        math.fsum(renyi_divergence(event, policy.renyi_order) for event in plan.events_of(split))
        for split in plan.splits
    ]
    assert number * max(costs) <= policy.renyi_budget < (number + 1) * max(costs)


def test_a_policy_for_runs_is_the_tightest_over_orders(planner: Planner) -> None:
    plan = planner()
    policy = policy_for_runs(plan, 3)
    for order in ORDERS:
        cost = 3 * sum(renyi_divergence(event, order) for event in plan.events_of("train"))
        assert policy.epsilon <= renyi_to_epsilon(cost, order, plan.delta) * (1 + 1e-8)
    assert policy.delta == plan.delta


def test_a_policy_for_runs_fits_splits_that_are_dearest_at_different_orders() -> None:
    """At the best order of held-out records alone, training records of this plan cost more than a third."""
    plan = make_plan(load_config("digits", ["training.num_rounds=8"]))
    policy = policy_for_runs(plan, 3)
    for split in plan.splits:
        cost = math.fsum(renyi_divergence(event, policy.renyi_order) for event in plan.events_of(split))
        assert 3 * cost <= policy.renyi_budget


def test_a_policy_for_runs_without_privacy_is_none_to_speak_of(not_private: PrivacyPlan) -> None:
    assert policy_for_runs(not_private, 3).epsilon < 0.01


@pytest.mark.parametrize("change", [{"epsilon": 0}, {"delta": 1.0}, {"renyi_order": 1}, {"spent": 0}])
def test_policies_out_of_range_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        BlockPolicy.model_validate({"epsilon": 1.0, "delta": 1e-5, "renyi_order": 8} | change)
