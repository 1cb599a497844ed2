"""The privacy certificate of a run: what was promised, in terms that a stranger can recompute.

It joins three things: events, from which epsilon follows; attestations, by which each client says
with its own key which plan its ledger has charged, for which records and by which code; and the
operator's signature over all of it. `fedpipe.ledger.verify` checks them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fedpipe.ledger.attestation import Attestation, Signature, plan_digest
from fedpipe.ledger.nist import NIST_SP_800_226, NistAnswer
from fedpipe.privacy import (
    DpSgd,
    NoisyHistograms,
    PrivacyPlan,
    Query,
    accountant_name,
    epsilon,
    event_from_json,
    event_to_json,
)
from fedpipe.signing import SigningKey

NOT_PROVEN = (
    "It proves arithmetic and integrity, not execution: each client is trusted to run its mechanism.",
    "It covers one client's records of one person; a person with records at several clients is outside it.",
    "That a client takes part is not hidden.",
    "Commitments show whether records changed; what records there are, only their owner can show.",
    "A key names nobody: whose it is, the reader must know from elsewhere.",
)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ChargedQuery(_Frozen):
    """A query of the plan, and the event that all its planned releases cost a record."""

    query: str
    step: str
    event: dict[str, Any] = Field(description="A DpEvent as versioned JSON; see docs/certificate.md.")


class BlockCost(_Frozen):
    """Everything that a record of one split may pay, and its epsilon at the certificate's delta.

    The split of every client and span is a block of its own, at the same cost.
    """

    split: str
    epsilon: float
    queries: tuple[ChargedQuery, ...]


class PrivacyStatement(_Frozen):
    """The guarantee in one place. `epsilon` is None for a run that is NOT PRIVATE."""

    status: Literal["private", "NOT PRIVATE"]
    unit: str
    neighboring_relation: str
    epsilon: float | None
    delta: float | None
    accountant: str
    randomness: str
    arithmetic: str


class MechanismStatement(_Frozen):
    """How one query protects a unit, in words; the plan has the same in numbers."""

    query: str
    step: str
    sampling: str
    clipping: str
    noise: str
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


class RefusedClaim(_Frozen):
    """A client that committed to records and then claimed nothing in a run: it answered nothing there."""

    run_id: str
    client: str


class StepReleases(_Frozen):
    """How many releases a step had planned, and how many reached the coordinator of the run that asked."""

    step: str
    run_id: str = Field(description="The run that asked: an earlier one if its results were used again.")
    planned_per_client: int = Field(ge=0)
    made: int | None = Field(ge=0, description="Over all clients; null where the run kept no count.")


class EarlierRun(_Frozen):
    """A run whose results were used again, at no further cost, and the plan under which they were released.

    Each client's claim for it is named in its attestation: `run_id`/`account`.
    """

    run_id: str
    steps: tuple[str, ...]
    plan: PrivacyPlan
    plan_sha256: str
    terms_sha256: str


class CodeDigests(_Frozen):
    """SHA-256 over the sources that computed, and over the versions of what they stand on."""

    coordinator: str = ""
    clients: dict[str, str] = {}


class Certificate(_Frozen):
    """Epsilon is over all planned events of the run, dropouts and retries included."""

    format: Literal["fedpipe privacy certificate"] = "fedpipe privacy certificate"
    version: Literal[2] = 2
    run_id: str
    model: str
    model_version: int
    issued_at: str = Field(description="ISO 8601, in UTC.")
    privacy: PrivacyStatement
    blocks: tuple[BlockCost, ...]
    sampling: str
    mechanisms: tuple[MechanismStatement, ...]
    plan: PrivacyPlan
    plan_sha256: str
    terms_sha256: str
    spans: tuple[str, ...]
    commitments: tuple[Commitment, ...]
    refused_claims: tuple[RefusedClaim, ...]
    attestations: tuple[Attestation, ...]
    releases: tuple[StepReleases, ...]
    dropouts: tuple[Dropout, ...]
    earlier_runs: tuple[EarlierRun, ...]
    code: CodeDigests
    versions: dict[str, str] = Field(description="Versions of what computed, by distribution.")
    not_proven: tuple[str, ...] = NOT_PROVEN
    nist_sp_800_226: tuple[NistAnswer, ...] = NIST_SP_800_226
    signature: Signature | None = Field(default=None, description="Of all other fields, by the operator.")

    def recompute_epsilon(self) -> float | None:
        """Returns the epsilon that the listed events imply, from nothing but them and delta."""
        if self.privacy.delta is None:
            return None
        return max((block_epsilon(block, self.privacy.delta) for block in self.blocks), default=None)

    def signed(self, key: SigningKey) -> Certificate:
        """Returns the certificate with the signature of `key` over everything else in it."""
        content = self.model_dump(mode="json", exclude={"signature"})
        signature = Signature(public_key=key.public, signature=key.sign(content))
        return self.model_copy(update={"signature": signature})


def block_epsilon(block: BlockCost, delta: float) -> float:
    """Returns the epsilon that the events of `block` imply at `delta`."""
    return epsilon([event_from_json(query.event) for query in block.queries], delta)


def make_certificate(
    plan: PrivacyPlan,
    *,
    run_id: str,
    model: str,
    model_version: int,
    commitments: Sequence[Commitment],
    dropouts: Sequence[Dropout] = (),
    issued_at: str = "",
    terms_sha256: str = "",
    refused_claims: Sequence[RefusedClaim] = (),
    attestations: Sequence[Attestation] = (),
    releases: Sequence[StepReleases] = (),
    earlier_runs: Sequence[EarlierRun] = (),
    code: CodeDigests | None = None,
    versions: dict[str, str] | None = None,
) -> Certificate:
    """Returns the certificate of a run under `plan`, not signed yet."""
    return Certificate(
        run_id=run_id,
        model=model,
        model_version=model_version,
        issued_at=issued_at,
        privacy=privacy_statement(plan),
        blocks=tuple(_block_cost(plan, split) for split in plan.splits) if plan.private else (),
        sampling=sampling_statement(plan),
        mechanisms=mechanism_statements(plan),
        plan=plan,
        plan_sha256=plan_digest(plan),
        terms_sha256=terms_sha256,
        spans=tuple(dict.fromkeys(commitment.span for commitment in commitments)),
        commitments=tuple(commitments),
        refused_claims=tuple(refused_claims),
        attestations=tuple(attestations),
        releases=tuple(releases),
        dropouts=tuple(dropouts),
        earlier_runs=tuple(earlier_runs),
        code=code or CodeDigests(),
        versions=versions or {},
    )


def privacy_statement(plan: PrivacyPlan) -> PrivacyStatement:
    """Returns what may be said of a run under `plan`."""
    return PrivacyStatement(
        status="private" if plan.private else "NOT PRIVATE",
        unit=plan.unit,
        neighboring_relation=plan.neighboring_relation,
        epsilon=plan.total_epsilon() if plan.private else None,
        delta=plan.delta if plan.private else None,
        accountant=accountant_name(),
        randomness=_randomness(plan),
        arithmetic="gradient sums: float32, real-valued analysis; counts: exact integers",
    )


def sampling_statement(plan: PrivacyPlan) -> str:
    """Returns what is drawn at random, and what is claimed for it."""
    return (
        f"Each client draws every {plan.unit} independently (Poisson) in every local step; all clients are "
        "asked in every round, and no amplification is claimed for that."
    )


def mechanism_statements(plan: PrivacyPlan) -> tuple[MechanismStatement, ...]:
    """Returns in words what the queries of `plan` do to a unit."""
    return tuple(_mechanism_statement(name, query, plan.unit) for name, query in plan.queries.items())


def charged_queries(plan: PrivacyPlan, split: str) -> tuple[ChargedQuery, ...]:
    """Returns what `plan` charges a record of `split`."""
    return tuple(
        ChargedQuery(query=name, step=query.step, event=event_to_json(query.events))
        for name, query in plan.queries_for(split).items()
    )


def planned_releases(plan: PrivacyPlan, step: str) -> int:
    """Returns how often each client answers `step` at most: every answer is a release of all its queries."""
    of_step = (query for query in plan.queries.values() if query.step == step)
    return max((query.mechanism.num_releases for query in of_step), default=0)


def _mechanism_statement(name: str, query: Query, unit: str) -> MechanismStatement:
    mechanism = query.mechanism
    if isinstance(mechanism, DpSgd):
        return _dp_sgd_statement(name, query.step, mechanism, unit)
    return _histogram_statement(name, query.step, mechanism, unit)


def _dp_sgd_statement(name: str, step: str, mechanism: DpSgd, unit: str) -> MechanismStatement:
    return MechanismStatement(
        query=name,
        step=step,
        sampling=f"Poisson: every {unit} with probability {mechanism.sampling_probability:g} in each of "
        f"{mechanism.num_rounds} x {mechanism.local_steps} local steps",
        clipping=f"each {unit}'s gradient to L2 norm {mechanism.clipping_norm:g}",
        noise=f"normal, standard deviation {mechanism.noise_multiplier:g} x the clipping norm in every "
        "coordinate of the sum",
        arithmetic="float32; the analysis is that of real numbers",
    )


def _histogram_statement(name: str, step: str, mechanism: NoisyHistograms, unit: str) -> MechanismStatement:
    return MechanismStatement(
        query=name,
        step=step,
        sampling=f"none: every {unit} counts",
        clipping=f"a {unit} adds at most one to one cell of each of {mechanism.num_histograms} histograms",
        noise=f"discrete Gaussian, parameter sigma {mechanism.noise_stddev:g} in every cell",
        arithmetic="exact integers",
    )


def _randomness(plan: PrivacyPlan) -> str:
    if plan.randomness == "seeded":
        return "seeded: repeatable, for tests, protects nobody"
    return "secure: operating system's generator at each client"


def _block_cost(plan: PrivacyPlan, split: Any) -> BlockCost:
    return BlockCost(split=split, epsilon=plan.epsilon_of(split), queries=charged_queries(plan, split))
