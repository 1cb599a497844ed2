"""The privacy certificate of a run: what was promised, in terms that a stranger can recompute.

It joins three things: events, from which epsilon follows; attestations, by which each client says
with its own key which plan its ledger has charged, for which records and by which code; and the
operator's signature over all of it. `fedpipe.ledger.verify` checks them.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fedpipe.ledger.attestation import Attestation, Signature
from fedpipe.ledger.nist import NIST_SP_800_226, NistAnswer
from fedpipe.privacy import (
    PrivacyPlan,
    UserUnit,
    epsilon,
    event_from_json,
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
    user: UserUnit | None = None
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
