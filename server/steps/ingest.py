"""Ingest: offers the run's terms to every client and collects commitments to their records."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from fedpipe.errors import FederationError
from fedpipe.federation import Reply, Request
from fedpipe.federation.rounds import ask_cohort
from fedpipe.ledger.certificate import Commitment
from server.artifacts import Spans
from server.steps.asking import Asker


def ingest(*, directory: Path, asker: Asker) -> dict[str, Spans]:
    """Returns who takes part. Each client that accepts has reserved the whole run's cost by then."""
    terms = asker.terms
    request = Request(
        run_id=asker.run_id, step="ingest", values={"terms": terms.model_dump(mode="json", by_alias=True)}
    )
    replies, refusals = ask_cohort(asker.clients, request, terms.training)
    commitments = tuple(commitment for reply in replies for commitment in _commitments(reply, terms.spans))
    spans = Spans(
        schema_version=terms.data_schema.version,
        commitments=commitments,
        refusals={refusal.client: refusal.reason for refusal in refusals},
    )
    return {"spans": spans}


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
