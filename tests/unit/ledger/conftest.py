from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from fedpipe.ledger import Block, BlockPolicy, Ledger, ReleaseId, policy_for_runs
from fedpipe.privacy import DpSgd, NoisyHistograms, PrivacyPlan, Query
from fedpipe.privacy.plan import Split

NOON = datetime(2024, 5, 1, 12, tzinfo=timezone.utc)


def make_plan(*, noise: float = 2.0, rounds: int = 3, keyed: bool = True) -> PrivacyPlan:
    """A small plan: 1 + 2 + 2 histograms, `rounds` rounds of training, 1 histogram of evaluation."""

    def query(step: str, mechanism: NoisyHistograms | DpSgd, *splits: Split) -> Query:
        return Query(step=step, splits=splits if keyed else ("all",), mechanism=mechanism)

    def counts(number: int) -> NoisyHistograms:
        return NoisyHistograms(noise_stddev=10.0, num_histograms=number)

    training = DpSgd(
        sampling_probability=0.5,
        clipping_norm=1.0,
        noise_multiplier=noise,
        num_rounds=rounds,
        local_steps=1,
    )
    return PrivacyPlan(
        private=True,
        epsilon=10.0,
        delta=1e-5,
        keyed=keyed,
        randomness="secure",
        queries={
            "labels": query("statistics", counts(1), "train", "eval"),
            "columns": query("statistics", counts(2), "train", "eval"),
            "features": query("preprocess", counts(2), "train"),
            "training": query("train", training, "train"),
            "evaluation": query("analyze", counts(1), "eval"),
        },
    )


def open_plan() -> PrivacyPlan:
    """A plan without privacy."""
    return PrivacyPlan(private=False, epsilon=1.0, delta=1e-5, keyed=True, randomness="secure", queries={})


@dataclass(frozen=True, kw_only=True)
class Desk:
    """A ledger's file and short ways to use it as one client."""

    path: Path
    plan: PrivacyPlan = field(default_factory=make_plan)
    runs: int = 3
    client: str = "ada"
    span: str = "undated"

    @property
    def policy(self) -> BlockPolicy:
        return policy_for_runs(self.plan, self.runs)

    def open(self) -> Ledger:
        return Ledger(self.path, clock=lambda: NOON)

    def blocks(self, plan: PrivacyPlan | None = None) -> list[Block]:
        splits = (plan or self.plan).splits
        return [Block(client=self.client, span=self.span, split=split) for split in splits]

    def reserve(self, run_id: str, **change: Any) -> None:
        plan = change.get("plan", self.plan)
        settings: dict[str, Any] = {
            "run_id": run_id,
            "client": self.client,
            "terms": '{"agreed":true}',
            "terms_digest": "d1",
            "plan": plan,
            "blocks": self.blocks(plan),
            "policy": self.policy,
        }
        with self.open() as ledger:
            ledger.reserve(**settings | change)

    def release(self, run_id: str, step: str, server_round: int = 0, attempt: int = 0) -> ReleaseId:
        return ReleaseId(
            run_id=run_id, client=self.client, step=step, server_round=server_round, attempt=attempt
        )

    def commit(
        self, run_id: str, step: str, server_round: int = 0, attempt: int = 0, *, charged: bool = True
    ) -> None:
        release = self.release(run_id, step, server_round, attempt)
        reply = f"{step}/{server_round}/{attempt}".encode()
        with self.open() as ledger:
            ledger.commit(release, request_digest="r1", reply=reply, charged=charged)

    def close(self, run_id: str) -> None:
        with self.open() as ledger:
            ledger.close(run_id, self.client)

    def held(self) -> dict[str, float]:
        with self.open() as ledger:
            return {str(spending.block): spending.held for spending in ledger.spending()}

    def contents(self) -> dict[str, list[tuple[Any, ...]]]:
        """Everything that the file says, read without the ledger."""
        with closing(sqlite3.connect(self.path)) as connection:
            names = [
                name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")
            ]
            return {
                name: sorted(connection.execute(f"SELECT * FROM {name}").fetchall(), key=repr)
                for name in sorted(names)
            }


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(path=tmp_path / "store" / "ledger.db")


@pytest.fixture
def make_desk(tmp_path: Path) -> Callable[..., Desk]:
    def make(**change: Any) -> Desk:
        return Desk(**{"path": tmp_path / "store" / "ledger.db"} | change)

    return make


@pytest.fixture
def planner() -> Callable[..., PrivacyPlan]:
    return make_plan


@pytest.fixture
def not_private() -> PrivacyPlan:
    return open_plan()
