"""The front end: it hands out tickets, and no share ever passes through it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from pydantic import BaseModel, ConfigDict, Field, StrictInt

from fedpipe.encrypted.party import tickets
from server.encrypted.rates import Rates
from server.encrypted.service import Active, Service
from server.prediction.access import KeyRing
from server.prediction.errors import Code, ServingError

NOBODY = "everybody"


class TicketRequest(BaseModel):
    """How many rows, and whose transform encoded them."""

    model_config = ConfigDict(extra="forbid")
    rows: StrictInt = Field(ge=1, description="At most limits.max_rows of the model card.")
    version: StrictInt | None = Field(
        None, description="Refused with 409 when another version is served by now."
    )


class PartyAddress(BaseModel):
    """Where a party takes its pair: PUT {url}/v1/shares/{request_id}."""

    index: int
    url: str


class TicketAnswer(BaseModel):
    """Leave for one request."""

    model_config = ConfigDict(protected_namespaces=())
    request_id: str
    model: str
    version: int
    certificate: str
    privacy: str
    rows: int
    input_width: int
    num_outputs: int
    deadline_seconds: float
    operator_sees_rows: bool
    parties: list[PartyAddress]


class FrontEnd:
    """What the paths do, apart from HTTP."""

    def __init__(
        self,
        service: Service,
        keys: KeyRing | None,
        rates: Rates,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        self._keys = keys
        self._rates = rates
        self._clock = clock

    def client(self, headers: Mapping[str, str]) -> str:
        """Returns whose key the headers hold.

        Raises:
          ServingError: nobody's.
        """
        return self._keys.check(headers) if self._keys else NOBODY

    def active(self) -> Active:
        """Returns the version that answers.

        Raises:
          ServingError: there is none now.
        """
        if self._service.active is None:
            raise ServingError(Code.UNAVAILABLE, self._service.reason)
        return self._service.active

    def ticket(self, client: str, wanted: TicketRequest) -> TicketAnswer:
        """Returns a fresh ticket.

        Raises:
          ServingError: no version answers, another one does, or that is too many rows.
        """
        active = self.active()
        card, limits = active.card, active.card["limits"]
        if wanted.version not in (None, card["version"]):
            raise ServingError(
                Code.FAILED_PRECONDITION,
                f"Expected version {card['version']}, which is served now: read the model card again.",
                http_status=409,
            )
        if wanted.rows > limits["max_rows"]:
            raise ServingError(Code.INVALID_ARGUMENT, f"Expected at most {limits['max_rows']} rows.")
        self._rates.take(client, wanted.rows, self._clock())
        seconds = limits["deadline_seconds"]
        named = ("model", "version", "certificate", "privacy", "input_width", "num_outputs")
        return TicketAnswer(
            request_id=active.committee.ticket(tickets.ROWS, wanted.rows, seconds),
            rows=wanted.rows,
            deadline_seconds=seconds,
            operator_sees_rows=card["operator_sees_rows"],
            parties=[PartyAddress(index=index, url=url) for index, url in enumerate(active.committee.urls)],
            **{name: card[name] for name in named},
        )
