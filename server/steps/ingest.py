"""Ingest: offers the run's terms to every client and collects commitments to their records."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from fedpipe.errors import DataError, FederationError
from fedpipe.federation import Reply, Request
from fedpipe.federation.cohort import ask_cohort
from fedpipe.ledger.certificate import Commitment
from fedpipe.pipeline.artifacts import artifact_path
from server.artifacts import Spans
from server.steps.asking import Asker


def ingest(*, directory: Path, asker: Asker) -> dict[str, Spans]:
    """Returns who has which records, without cost. A resumed run keeps the spans that it began with.

    Raises:
      DataError: a client's records, or the code that answers, are no longer those that the run began with.
    """
    terms = asker.terms
    request = Request(
        run_id=asker.run_id, step="ingest", values={"terms": terms.model_dump(mode="json", by_alias=True)}
    )
    cohort = ask_cohort(asker.clients, request, terms.training)
    commitments = (each for reply in cohort.replies for each in _commitments(reply, terms.spans))
    found = Spans(
        schema_version=terms.data_schema.version,
        commitments=tuple(commitments),
        code={reply.client: str(reply.values.get("code")) for reply in cohort.replies},
        refusals={refusal.client: refusal.reason for refusal in cohort.refusals},
    )
    begun = _begun_with(directory)
    if begun is None:
        return {"spans": found}
    _check_unchanged(begun, found)
    return {"spans": begun}


def _begun_with(directory: Path) -> Spans | None:
    """Returns the spans of an earlier try of this run; a damaged file is none."""
    try:
        return Spans.model_validate_json(artifact_path(directory, "spans").read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _check_unchanged(begun: Spans, found: Spans) -> None:
    # Answers of before stand beside answers of now: both must be about the same records.
    changed = sorted(
        {each.client for each in found.commitments if each not in begun.commitments}
        | {client for client, digest in found.code.items() if digest != begun.code.get(client)}
    )
    if changed:
        raise DataError(
            f"Expected the records and the code that this run began with, found others at {changed[0]} "
            f"({len(changed)} clients in all): start a new run."
        )


def _commitments(reply: Reply, wanted: tuple[str, ...]) -> list[Commitment]:
    try:
        commitments = [
            Commitment(client=reply.client, span=span["name"], hmac_sha256=span["commitment"])
            for span in reply.values["spans"]
        ]
    except (KeyError, TypeError, ValidationError) as error:
        raise FederationError(
            f"Expected commitments from {reply.client}, found something else: is its fedpipe the same?"
        ) from error
    if tuple(commitment.span for commitment in commitments) != wanted:
        raise FederationError(
            f"Expected a commitment from {reply.client} for each span of the run, found others: "
            "is its fedpipe the same?"
        )
    return commitments
