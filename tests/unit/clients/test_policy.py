"""What a data owner allows, whatever a coordinator asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from clients.policy import NodePolicy
from clients.site_policy import SitePolicy
from fedpipe.errors import LedgerError
from fedpipe.federation.terms import RunTerms
from fedpipe.learning import ModelSettings
from fedpipe.privacy import PrivacyPlan

NOT_PRIVATE = {
    "private": False,
    "epsilon": 1.0,
    "delta": 1e-5,
    "keyed": True,
    "randomness": "secure",
    "queries": {},
}


def test_a_private_secure_plan_is_allowed_by_default(make_terms: Callable[..., RunTerms]) -> None:
    terms = make_terms()
    NodePolicy.model_validate({}).check(_with(terms, randomness="secure"))


def test_a_run_without_privacy_needs_permission(make_terms: Callable[..., RunTerms]) -> None:
    terms = make_terms(plan=NOT_PRIVATE)
    with pytest.raises(LedgerError, match="refused by policy"):
        NodePolicy.model_validate({"seed": 1}).check(terms)
    NodePolicy.model_validate({"allow_not_private": True}).check(terms)


def test_seeded_randomness_needs_a_seed_of_the_owner(make_terms: Callable[..., RunTerms]) -> None:
    terms = make_terms()
    with pytest.raises(LedgerError, match="seeded"):
        NodePolicy.model_validate({}).check(terms)
    NodePolicy.model_validate({"seed": 0}).check(terms)


@pytest.mark.parametrize(
    ("model", "training"),
    [
        ({"type": "mlp", "hidden_units": (100_000, 100_000)}, {}),
        ({"type": "mlp", "hidden_units": (3000, 3000)}, {"local_steps": 1000}),
    ],
)
def test_a_model_that_would_take_too_much_memory_is_refused_when_it_is_offered(
    make_terms: Callable[..., RunTerms], model: dict[str, Any], training: dict[str, Any]
) -> None:
    terms = make_terms()
    huge = terms.model_copy(
        update={
            "model": ModelSettings.model_validate(model),
            "training": terms.training.model_copy(update=training),
        }
    )
    bounded = NodePolicy.of_site(SitePolicy()).model_copy(update={"seed": 1})
    bounded.check(terms)
    with pytest.raises(LedgerError, match=r"about [0-9]+ MiB: refused by policy"):
        bounded.check(huge)
    NodePolicy.model_validate({"seed": 1}).check(huge)  # a simulation's


@pytest.mark.parametrize("key", ["record_id", None])
def test_budgets_are_separate_exactly_where_the_schema_has_a_key(
    make_terms: Callable[..., RunTerms], key: str | None
) -> None:
    """Otherwise an amended record could move between two budgets, or two splits pay one."""
    terms = make_terms()
    schema = terms.data_schema.model_copy(update={"key": key})
    for keyed in (True, False):
        offered = terms.model_copy(
            update={"data_schema": schema, "plan": terms.plan.model_copy(update={"keyed": keyed})}
        )
        policy = NodePolicy.model_validate({"seed": 1})
        if keyed == (key is not None):
            policy.check(offered)
        else:
            with pytest.raises(LedgerError, match="key"):
                policy.check(offered)


def test_a_lifetime_budget_goes_before_a_number_of_runs(make_terms: Callable[..., RunTerms]) -> None:
    plan = make_terms().plan
    both = NodePolicy.model_validate({"lifetime_epsilon": 2.5, "lifetime_runs": 3, "lifetime_delta": 1e-6})
    assert (both.block_policy(plan).epsilon, both.block_policy(plan).delta) == (2.5, 1e-6)


def test_more_runs_are_a_larger_budget(make_terms: Callable[..., RunTerms]) -> None:
    plan = make_terms().plan
    one, three = (
        NodePolicy.model_validate({"lifetime_runs": runs}).block_policy(plan).epsilon for runs in (1, 3)
    )
    assert one < three


def test_without_settings_a_block_has_a_small_budget(make_terms: Callable[..., RunTerms]) -> None:
    assert NodePolicy.model_validate({}).block_policy(make_terms().plan).epsilon == 1.0


@pytest.mark.parametrize(
    "bad",
    [{"lifetime_epsilon": 0}, {"lifetime_runs": 0}, {"lifetime_delta": 1}, {"epsilon": 3}, {"seed": "x"}],
    ids=str,
)
def test_a_policy_has_no_other_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        NodePolicy.model_validate(bad)


def _with(terms: RunTerms, **changes: Any) -> RunTerms:
    plan = PrivacyPlan.model_validate(terms.plan.model_dump() | changes)
    return terms.model_copy(update={"plan": plan})


def test_an_owner_names_the_architectures_that_may_be_trained(make_terms: Callable[..., RunTerms]) -> None:
    terms = make_terms()
    other = {"mlp", "cnn"} - {terms.model.type}
    policy = {"seed": 1, "allowed_models": [terms.model.type]}
    NodePolicy.model_validate(policy).check(terms)
    with pytest.raises(LedgerError, match="refused by policy"):
        NodePolicy.model_validate(policy | {"allowed_models": sorted(other)}).check(terms)


def test_an_owner_sets_the_least_cohort(make_terms: Callable[..., RunTerms]) -> None:
    terms = make_terms()
    least = terms.training.min_cohort
    NodePolicy.model_validate({"seed": 1, "min_cohort": least}).check(terms)
    with pytest.raises(LedgerError, match=r"training\.min_cohort"):
        NodePolicy.model_validate({"seed": 1, "min_cohort": least + 1}).check(terms)


def test_an_owner_names_the_steps_that_may_ask() -> None:
    policy = NodePolicy.model_validate({"allowed_steps": ["train", "analyze"]})
    policy.check_steps(["train"])
    with pytest.raises(LedgerError, match="found statistics"):
        policy.check_steps(["statistics", "train"])
