"""Ingest: offers the run's terms to every client and collects commitments to their records."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from fedpipe.errors import DataError
from fedpipe.federation import Request
from fedpipe.ledger.certificate import Commitment
from fedpipe.pipeline.artifacts import artifact_path
from server.artifacts import Spans
from server.offers import offer_of
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
    cohort = asker.ask_all(request, check=lambda reply: offer_of(reply, terms.spans))
    offers = {reply.client: offer_of(reply, terms.spans) for reply in cohort.replies}
    found = Spans(
        schema_version=terms.data_schema.version,
        commitments=tuple(
            Commitment(client=client, span=span, hmac_sha256=commitment)
            for client, offer in offers.items()
            for span, commitment in offer.commitments.items()
        ),
        code={client: offer.code for client, offer in offers.items()},
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
