"""What stands behind a certificate besides its plan: attestations, counts of answers, earlier runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from fedpipe.federation.terms import RunTerms
from fedpipe.ledger.attestation import Attestation, plan_digest
from fedpipe.ledger.certificate import EarlierRun, RefusedClaim, StepReleases
from fedpipe.ledger.certificate_making import planned_releases
from fedpipe.privacy import PrivacyPlan
from server.answers import count_answers
from server.claims import CHARGED, Claim, read_claim
from server.history import TERMS


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the clients vouched for, in the runs that asked them."""

    attestations: tuple[Attestation, ...]
    refused_claims: tuple[RefusedClaim, ...]
    releases: tuple[StepReleases, ...]
    earlier_runs: tuple[EarlierRun, ...]


def gather_evidence(
    runs: Path, run_id: str, *, plan: PrivacyPlan, clients: Sequence[str], made_by: Mapping[str, str]
) -> Evidence:
    """Returns the evidence for run `run_id`, whose results of some steps earlier runs made.

    Files of an earlier run that are gone leave gaps, which verification names.

    Args:
      runs: holds the directory of each run.
      run_id: the run that is certified.
      plan: of that run.
      clients: those that committed to records.
      made_by: by step, the run that made its results.
    """
    asked = {step: made_by.get(step, run_id) for step in CHARGED}
    claims = {run: read_claim(runs / run) or Claim(steps=()) for run in dict.fromkeys(asked.values())}
    return Evidence(
        attestations=tuple(each for claim in claims.values() for each in claim.attestations),
        refused_claims=tuple(
            RefusedClaim(run_id=run, client=client)
            for run, claim in claims.items()
            for client in clients
            if client not in claim.clients
        ),
        releases=tuple(_releases(runs, plan, step, run) for step, run in asked.items()),
        earlier_runs=tuple(
            earlier for run in claims if run != run_id for earlier in _earlier_run(runs, run, asked)
        ),
    )


def _releases(runs: Path, plan: PrivacyPlan, step: str, run: str) -> StepReleases:
    counts = count_answers(runs / run)
    made = None if counts is None else counts.get(step, 0)
    return StepReleases(step=step, run_id=run, planned_per_client=planned_releases(plan, step), made=made)


def _earlier_run(runs: Path, run: str, asked: Mapping[str, str]) -> list[EarlierRun]:
    try:
        terms = RunTerms.model_validate_json((runs / run / TERMS).read_bytes())
    except (FileNotFoundError, ValidationError):
        return []
    return [
        EarlierRun(
            run_id=run,
            steps=tuple(step for step, by in asked.items() if by == run),
            plan=terms.plan,
            plan_sha256=plan_digest(terms.plan),
            terms_sha256=terms.digest,
        )
    ]
