"""Whatever clients do, in whatever order: the ledger agrees with a simple model, and budgets hold."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fedpipe.errors import BudgetError
from fedpipe.ledger import Block, Ledger, LedgerStore, ReleaseId, SignedHead, policy_for_budget
from fedpipe.ledger.check import check_ledger
from fedpipe.privacy import DpSgd, NoisyHistograms, PrivacyPlan, Query
from fedpipe.privacy.accounting import renyi_divergence
from fedpipe.signing import SigningKey

PEER = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))
POLICY = policy_for_budget(3.0, 1e-5)
BLOCK = Block(client="ada", span="undated", split="all")
STEPS = {"statistics": ("labels", "columns"), "preprocess": ("features",), "train": ("training",)}


def make_plan(noise: float, rounds: int) -> PrivacyPlan:
    counts = NoisyHistograms(noise_stddev=30.0, num_histograms=2)
    training = DpSgd(
        sampling_probability=0.1,
        clipping_norm=1.0,
        noise_multiplier=noise,
        num_rounds=rounds,
        local_steps=1,
    )
    places = {
        "labels": "statistics",
        "columns": "statistics",
        "features": "preprocess",
        "evaluation": "analyze",
    }
    queries = {name: Query(step=step, splits=("all",), mechanism=counts) for name, step in places.items()} | {
        "training": Query(step="train", splits=("all",), mechanism=training)
    }
    return PrivacyPlan(
        private=True, epsilon=1.0, delta=1e-5, keyed=False, randomness="secure", queries=queries
    )


def price(plan: PrivacyPlan, query: str) -> float:
    return renyi_divergence(plan.queries[query].mechanism.event, POLICY.renyi_order)


class Claims(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "ledger.db"
        self.plans: dict[str, PrivacyPlan] = {}
        self.open: set[str] = set()
        self.made: Counter[tuple[str, str]] = Counter()

    def teardown(self) -> None:
        """Whatever was done: the tables are what the entries say."""
        if self.path.exists():
            assert check_ledger(LedgerStore.at(self.path)).findings == ()
        self.directory.cleanup()

    def held(self) -> float:
        return sum(
            price(plan, name)
            * (query.mechanism.num_releases if run in self.open else self.made[run, query.step])
            for run, plan in self.plans.items()
            for name, query in plan.queries.items()
        )

    @rule(noise=st.sampled_from([1.5, 3.0, 8.0]), rounds=st.integers(1, 4))
    def reserve(self, noise: float, rounds: int) -> None:
        run, plan = f"r{len(self.plans)}", make_plan(noise, rounds)
        cost = sum(price(plan, name) * query.mechanism.num_releases for name, query in plan.queries.items())
        fits = self.held() + cost <= POLICY.renyi_budget
        try:
            with Ledger(self.path) as ledger:
                ledger.reserve(
                    run_id=run,
                    client="ada",
                    terms="{}",
                    terms_digest=run,
                    plan=plan,
                    blocks=[BLOCK],
                    policy=POLICY,
                )
        except BudgetError:
            assert not fits
        else:
            assert fits
            self.plans[run] = plan
            self.open.add(run)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), step=st.sampled_from(sorted(STEPS)))
    def commit(self, data: st.DataObject, step: str) -> None:
        run = data.draw(st.sampled_from(sorted(self.open)))
        done = self.made[run, step]
        planned = self.plans[run].queries[STEPS[step][0]].mechanism.num_releases
        release = ReleaseId(run_id=run, client="ada", step=step, server_round=done)
        with Ledger(self.path) as ledger:
            if done == planned:
                with pytest.raises(BudgetError):
                    ledger.commit(release, request_digest="d", reply=b"reply")
            else:
                ledger.commit(release, request_digest="d", reply=b"reply")
                self.made[run, step] += 1

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from(sorted(self.open)))
        with Ledger(self.path) as ledger:
            ledger.close(run, "ada")
        self.open.remove(run)

    @rule(position=st.integers(1, 5))
    def witness(self, position: int) -> None:
        head = SignedHead.sign(PEER, position, f"{position:064x}")
        with Ledger(self.path) as ledger:
            ledger.witness("bob", head)
            ledger.meet(ledger.head())

    @invariant()
    def no_budget_is_exceeded(self) -> None:
        with Ledger(self.path) as ledger:
            spending = ledger.spending()
        for block in spending:
            assert block.held == pytest.approx(self.held(), rel=1e-12)
            assert block.held <= block.budget


Claims.TestCase.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
TestClaims = Claims.TestCase
