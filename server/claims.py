"""The claim of a run: made before the first charged question, for the steps that are still to be asked.

A run whose steps all come from the cache asks nobody, so it claims nothing. The steps are
written down before anybody is asked, so that a resumed run adopts its claim as it stands.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from fedpipe.errors import FederationError, WorkspaceError
from fedpipe.federation import Clients, Refusal, Reply, Request
from fedpipe.federation.cohort import ask_cohort
from fedpipe.federation.terms import RunTerms
from fedpipe.files import write_text
from fedpipe.ledger.attestation import Attestation, Statement, differing_fields, plan_digest
from fedpipe.pipeline import ExecutionRecord
from server.answers import note_answers
from server.offers import offer_of

CLAIM = "claim.json"
CHARGED = ("statistics", "preprocess", "train", "analyze")
"""The steps that ask for charged releases, in the order of the cycle."""


class Claim(BaseModel):
    """What a run claimed: the steps that may cost something, who accepted, and who refused, with the reason.

    Nothing was released before the claim was `answered`. Who accepted has signed an attestation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: tuple[str, ...]
    answered: bool = False
    refusals: dict[str, str] = {}
    attestations: tuple[Attestation, ...] = ()

    @property
    def clients(self) -> set[str]:
        """The clients that have vouched for what they accepted."""
        return {each.statement.client for each in self.attestations}


def read_claim(directory: Path) -> Claim | None:
    """Returns the claim of the run in `directory`, or None if there is none that can be read."""
    try:
        return Claim.model_validate_json((directory / CLAIM).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def first_charged(executions: Iterable[ExecutionRecord]) -> str | None:
    """Returns the first charged step that a run began itself: with it, its claim begins.

    The paper trail knows it even when the claim's own file is gone.
    """
    begun = {execution.step for execution in executions if execution.state != "CACHED"}
    return next((step for step in CHARGED if step in begun), None)


class ClaimingClients:
    """Implements `Clients` over others, and claims before the first charged step is asked.

    `first` is where the claim of an earlier process began, for when its file was lost. A client that is
    named in `ledger_keys` vouches with that key, or takes no part.
    """

    def __init__(
        self,
        clients: Clients,
        *,
        run_id: str,
        terms: RunTerms,
        directory: Path,
        first: str | None = None,
        ledger_keys: Mapping[str, str] | None = None,
    ) -> None:
        self._clients = clients
        self._run_id = run_id
        self._terms = terms
        self._directory = directory
        self._first = first
        self._ledger_keys = ledger_keys or {}
        self._offered: dict[str, Reply] = {}
        self._claimed: Claim | None = None

    def ask(
        self, request: Request, *, timeout_seconds: float, only: Collection[str] | None = None
    ) -> tuple[list[Reply], list[Refusal]]:
        """Returns the answers and the refusals; see `Clients`. Who did not accept the claim is not asked.

        Raises:
          BudgetError, FederationError: too few clients accept the claim.
          WorkspaceError: the run's claim leaves `request.step` out.
        """
        if request.step in CHARGED:
            return self._ask_charged(request, timeout_seconds, only)
        replies, refusals = self._clients.ask(request, timeout_seconds=timeout_seconds, only=only)
        if request.step == "ingest":
            self._offered |= {reply.client: reply for reply in replies}
        return replies, refusals

    def _ask_charged(
        self, request: Request, timeout_seconds: float, only: Collection[str] | None
    ) -> tuple[list[Reply], list[Refusal]]:
        claim = self._claimed
        if claim is None or request.step not in claim.steps:
            claim = self._claimed = self._claim(request.step)
        wanted = claim.clients if only is None else claim.clients & set(only)
        outside = [_outside(name, claim) for name in sorted(set(only or ()) - claim.clients)]
        if not wanted:
            return [], outside
        asked = time.monotonic()
        replies, refusals = self._clients.ask(request, timeout_seconds=timeout_seconds, only=sorted(wanted))
        note_answers(self._directory, request, replies, refusals, time.monotonic() - asked)
        return replies, [*refusals, *outside]

    def _claim(self, step: str) -> Claim:
        claim = read_claim(self._directory) or Claim(steps=CHARGED[CHARGED.index(self._first or step) :])
        if step not in claim.steps:
            raise WorkspaceError(
                f"Expected the files of step {step}, which this run found complete before, found them gone: "
                "start a new run with --fresh."
            )
        self._write(claim)
        values = {
            "terms": self._terms.model_dump(mode="json", by_alias=True),
            "steps": list(claim.steps),
        }
        request = Request(run_id=self._run_id, step="claim", values=values)
        cohort = ask_cohort(
            self._clients, request, self._terms.training, check=partial(self._check, claim.steps)
        )
        attested = {each.statement.client: each for each in claim.attestations}
        attested |= {reply.client: _attestation(reply) for reply in cohort.replies}
        said = {each.client: each.reason for each in cohort.refusals if each.client not in attested}
        claim = claim.model_copy(
            update={"answered": True, "refusals": said, "attestations": tuple(attested.values())}
        )
        self._write(claim)
        return claim

    def _check(self, steps: tuple[str, ...], reply: Reply) -> None:
        """Raises FederationError unless `reply` vouches for this very claim, records and code as offered."""
        attestation = _attestation(reply)
        if not attestation.is_genuine:
            raise FederationError(
                f"Expected the signature of {reply.client} on the claim that it accepts, found one that does "
                "not fit: it takes no part."
            )
        key = attestation.signature.public_key
        if self._ledger_keys.get(reply.client, key) != key:
            raise FederationError(
                f"Expected the signature of the ledger with which {reply.client} was admitted, found another "
                "ledger's: its owner must restore the first, or enroll anew."
            )
        wrong = differing_fields(
            attestation.statement, self._expected(reply.client, steps), ignored=("account",)
        )
        if wrong:
            raise FederationError(
                f"Expected {reply.client} to vouch for the run's own {', '.join(wrong)}, found other values: "
                "is its fedpipe the same?"
            )

    def _expected(self, client: str, steps: tuple[str, ...]) -> Statement:
        told = self._offered.get(client)
        offer = offer_of(told, self._terms.spans) if told else None
        return Statement(
            run_id=self._run_id,
            client=client,
            account=client,
            steps=steps,
            plan_sha256=plan_digest(self._terms.plan),
            terms_sha256=self._terms.digest,
            commitments=offer.commitments if offer else {},
            code_sha256=offer.code if offer else "",
        )

    def _write(self, claim: Claim) -> None:
        write_text(self._directory / CLAIM, claim.model_dump_json(indent=2) + "\n")


def _outside(client: str, claim: Claim) -> Refusal:
    reason = claim.refusals.get(client, "it did not accept the run's claim")
    return Refusal(client=client, reason=reason, kind="FederationError")


def _attestation(reply: Reply) -> Attestation:
    try:
        return Attestation.model_validate(reply.values.get("attestation"))
    except ValidationError as error:
        raise FederationError(
            f"Expected a signed attestation from {reply.client}, found something else: "
            "is its fedpipe the same?"
        ) from error
