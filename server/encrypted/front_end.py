"""The front end: it hands out tickets, and no share ever passes through it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StrictInt

from fedpipe.encrypted.party import tickets
from server.encrypted.rates import Rates
from server.encrypted.raw_rows import Predict, RawRows
from server.encrypted.service import Active, Service
from server.prediction.access import KeyRing, sent_key
from server.prediction.errors import Code, ServingError

_RETRY_SECONDS = 5
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


def make_app(front_end: FrontEnd, service: Service, raw: Predict | None = None) -> FastAPI:
    """Returns the ASGI application that docs/encrypted-client.md describes.

    Args:
      front_end: what the paths do.
      service: what is served.
      raw: answers rows in the clear; None leaves that path out.
    """
    app = FastAPI(title="fedpipe encrypted prediction", docs_url=None, redoc_url=None)
    _explain_errors(app)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz")
    async def readyz() -> Response:
        ready = service.active is not None
        return JSONResponse({"status": "ready" if ready else "not ready"}, 200 if ready else 503)

    @app.get("/v1/model")
    async def model(request: Request) -> dict[str, Any]:
        front_end.client(request.headers)
        return front_end.active().card

    @app.post("/v1/requests")
    async def ticket(request: Request, wanted: TicketRequest) -> TicketAnswer:
        return front_end.ticket(front_end.client(request.headers), wanted)

    @app.get("/v1/status")
    async def status(request: Request) -> dict[str, Any]:
        front_end.client(request.headers)
        return service.describe()

    if raw is not None:
        _take_raw_rows(app, front_end, raw)
    return app


def _take_raw_rows(app: FastAPI, front_end: FrontEnd, raw: Predict) -> None:
    @app.post("/v1/predict")
    async def predict(request: Request, rows: RawRows) -> dict[str, Any]:
        front_end.client(request.headers)
        return await raw(rows, sent_key(request.headers))


def _explain_errors(app: FastAPI) -> None:
    @app.exception_handler(ServingError)
    async def refused(request: Request, error: ServingError) -> Response:
        headers = {401: {"www-authenticate": "Bearer"}}.get(error.http_status)
        if error.http_status in (429, 503):
            headers = {"retry-after": str(_RETRY_SECONDS)}
        return JSONResponse({"error": str(error)}, error.http_status, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        # Their own text would repeat what was sent.
        return JSONResponse({"error": "Expected a body as in /openapi.json, found another."}, 400)
