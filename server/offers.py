"""What a client offers at `ingest`: commitments to its records, and the code that would answer for them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedpipe.errors import FederationError
from fedpipe.federation import Reply

_Text = Annotated[str, Field(min_length=1, max_length=1024)]


class _Span(BaseModel):
    name: _Text
    commitment: _Text


class Offer(BaseModel):
    """One client's offer: its spans in the run's order, and the digest of its code."""

    model_config = ConfigDict(frozen=True)

    spans: tuple[_Span, ...]
    code: _Text

    @property
    def commitments(self) -> dict[str, str]:
        """Returns the keyed commitment to each span."""
        return {span.name: span.commitment for span in self.spans}


def offer_of(reply: Reply, spans: tuple[str, ...]) -> Offer:
    """Returns the offer in `reply`, which may come from anybody.

    Raises:
      FederationError: it is none, or not about exactly the run's `spans`.
    """
    try:
        offer = Offer.model_validate(reply.values)
    except ValidationError as error:
        raise FederationError(
            f"Expected commitments and a code digest from {reply.client}, found something else: "
            "is its fedpipe the same?"
        ) from error
    if tuple(span.name for span in offer.spans) != spans:
        raise FederationError(
            f"Expected a commitment from {reply.client} for each span of the run, found others: "
            "is its fedpipe the same?"
        )
    return offer
