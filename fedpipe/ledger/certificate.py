"""The privacy certificate of a run: what was promised, in terms that a stranger can recompute."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fedpipe.files import digest_json
from fedpipe.privacy import (
    PrivacyPlan,
    UserUnit,
    accountant_name,
    epsilon,
    event_from_json,
    event_to_json,
)

NOT_PROVEN = (
    "It proves arithmetic, not execution: every client is trusted to run its mechanism as planned.",
    "It covers one client's records of one person; a person with records at several clients is outside it.",
    "That a client takes part is not hidden.",
)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ChargedQuery(_Frozen):
    """A query of the plan, and the event that all its planned releases cost a record."""

    query: str
    step: str
    event: dict[str, Any]


class BlockCost(_Frozen):
    """Everything that a record of one split may pay, and its epsilon at the certificate's delta."""

    split: str
    epsilon: float
    queries: tuple[ChargedQuery, ...]


class PrivacyStatement(_Frozen):
    """The guarantee in one place. `epsilon` is None for a run that is NOT PRIVATE."""

    status: Literal["private", "NOT PRIVATE"]
    unit: str
    user: UserUnit | None = None
    neighboring_relation: str
    epsilon: float | None
    delta: float | None
    accountant: str
    randomness: str
    arithmetic: str


class Commitment(_Frozen):
    """A keyed digest of a client's records of one span; only the client can open it."""

    client: str
    span: str
    hmac_sha256: str


class Dropout(_Frozen):
    """A client that did not answer a round. Its planned cost is counted all the same."""

    server_round: int
    client: str


class Certificate(_Frozen):
    """Unsigned for now. Epsilon is over all planned events of the run, dropouts and retries included."""

    format: Literal["fedpipe privacy certificate"] = "fedpipe privacy certificate"
    version: Literal[1] = 1
    run_id: str
    model: str
    model_version: int
    privacy: PrivacyStatement
    blocks: tuple[BlockCost, ...]
    sampling: str
    plan: PrivacyPlan
    plan_sha256: str
    commitments: tuple[Commitment, ...]
    dropouts: tuple[Dropout, ...]
    code: dict[str, str] = Field(description="Versions of what computed, by distribution.")
    not_proven: tuple[str, ...] = NOT_PROVEN

    def recompute_epsilon(self) -> float | None:
        """Returns the epsilon that the listed events imply, from nothing but them and delta."""
        if self.privacy.delta is None:
            return None
        return max(
            epsilon([event_from_json(query.event) for query in block.queries], self.privacy.delta)
            for block in self.blocks
        )


def make_certificate(
    plan: PrivacyPlan,
    *,
    run_id: str,
    model: str,
    model_version: int,
    commitments: tuple[Commitment, ...],
    dropouts: tuple[Dropout, ...],
    code: dict[str, str],
) -> Certificate:
    """Returns the certificate of a run under `plan`."""
    blocks = tuple(_block_cost(plan, split) for split in plan.splits) if plan.private else ()
    return Certificate(
        run_id=run_id,
        model=model,
        model_version=model_version,
        privacy=privacy_statement(plan),
        blocks=blocks,
        sampling=f"Each client draws every {plan.unit} independently (Poisson) in every local step; all "
        "clients are asked in every round, and no amplification is claimed for that.",
        plan=plan,
        plan_sha256=digest_json(plan.model_dump(mode="json")),
        commitments=commitments,
        dropouts=dropouts,
        code=code,
    )


def privacy_statement(plan: PrivacyPlan) -> PrivacyStatement:
    """Returns what may be said of a run under `plan`."""
    return PrivacyStatement(
        status="private" if plan.private else "NOT PRIVATE",
        unit=plan.unit,
        user=plan.user,
        neighboring_relation=plan.neighboring_relation,
        epsilon=plan.total_epsilon() if plan.private else None,
        delta=plan.delta if plan.private else None,
        accountant=accountant_name(),
        randomness=_randomness(plan),
        arithmetic="gradient sums: float32, real-valued analysis; counts: exact integers",
    )


def _randomness(plan: PrivacyPlan) -> str:
    if plan.randomness == "seeded":
        return "seeded: repeatable, for tests, protects nobody"
    return "secure: operating system's generator at each client"


def _block_cost(plan: PrivacyPlan, split: Any) -> BlockCost:
    return BlockCost(
        split=split,
        epsilon=plan.epsilon_of(split),
        queries=tuple(
            ChargedQuery(query=name, step=query.step, event=event_to_json(query.events))
            for name, query in plan.queries_for(split).items()
        ),
    )
