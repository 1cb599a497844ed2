"""What is left of simulated budgets: the tightest client's, and whole runs only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedpipe.federation.terms import RunTerms
from fedpipe.ledger import Block, Ledger, policy_for_runs
from fedpipe.ledger.certificate import Certificate, Commitment
from fedpipe.ledger.certificate_making import make_certificate
from fedpipe.privacy import PrivacyPlan
from simulations.budgets import read_budgets

ALL = ("statistics", "preprocess", "train", "analyze")


def certificate(plan: PrivacyPlan, *clients: str) -> Certificate:
    commitments = tuple(Commitment(client=c, span="undated", hmac_sha256="ab" * 32) for c in clients)
    return make_certificate(
        plan,
        run_id="run-1",
        model="m",
        model_version=1,
        commitments=commitments,
        dropouts=(),
    )


def reserve(path: Path, plan: PrivacyPlan, account: str, run_id: str) -> None:
    with Ledger(path) as ledger:
        ledger.reserve(
            run_id=run_id,
            client=account,
            terms="{}",
            terms_digest="d",
            plan=plan,
            blocks=[Block(client=account, span="undated", split=split) for split in plan.splits],
            policy=policy_for_runs(plan, 3),
        )


@pytest.fixture
def plan(make_terms: Callable[..., RunTerms]) -> PrivacyPlan:
    return make_terms().plan


def test_the_client_with_least_left_decides(tmp_path: Path, plan: PrivacyPlan) -> None:
    path = tmp_path / "ledger.sqlite"
    for account, run_id in (("small.a", "run-0"), ("small.a", "run-1"), ("small.b", "run-1")):
        reserve(path, plan, account, run_id)
    reserve(path, plan, "other.c", "run-1")
    found = {
        each.split: each for each in read_budgets(path, certificate(plan, "a", "b"), "small", claimed=ALL)
    }
    assert set(found) == {"train", "eval"}
    dearest = max(found.values(), key=lambda each: each.used)
    assert dearest.used == pytest.approx(2 / 3)
    assert dearest.runs_left == 1
    assert dearest.by_this_run == pytest.approx(1 / 3)
    alone = list(read_budgets(path, certificate(plan, "b"), "small", claimed=ALL))
    assert min(each.runs_left for each in alone) == 2


def test_a_run_spends_nothing_for_steps_that_it_did_not_claim(tmp_path: Path, plan: PrivacyPlan) -> None:
    path = tmp_path / "ledger.sqlite"
    reserve(path, plan, "small.a", "run-0")

    def spent(*claimed: str) -> dict[str, float]:
        found = read_budgets(path, certificate(plan, "a"), "small", claimed=claimed)
        return {each.split: each.by_this_run for each in found}

    assert set(spent().values()) == {0.0}
    assert spent("train")["eval"] == 0.0
    assert 0 < spent("train")["train"] < spent(*ALL)["train"]


def test_a_spent_budget_affords_no_run(tmp_path: Path, plan: PrivacyPlan) -> None:
    path = tmp_path / "ledger.sqlite"
    for number in range(3):
        reserve(path, plan, "small.built-in.a", f"run-{number}")
    budgets = list(read_budgets(path, certificate(plan, "a"), "small", claimed=ALL))
    assert min(each.runs_left for each in budgets) == 0


def test_a_run_without_privacy_has_no_budget(tmp_path: Path, plan: PrivacyPlan) -> None:
    open_plan = PrivacyPlan.model_validate(plan.model_dump() | {"private": False, "queries": {}})
    assert (
        list(read_budgets(tmp_path / "none.sqlite", certificate(open_plan, "a"), "small", claimed=ALL)) == []
    )
    assert list(tmp_path.iterdir()) == []
