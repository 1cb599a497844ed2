"""The front end over HTTP, as docs/encrypted-client.md describes it."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, FastAPI, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import BaseModel

from server.encrypted.front_end import FrontEnd, TicketAnswer, TicketRequest
from server.encrypted.raw_rows import Predict, RawAnswer, RawRows
from server.encrypted.service import Service
from server.prediction.access import sent_key
from server.prediction.errors import ServingError

_RETRY_SECONDS = 5
_TITLE = "fedpipe encrypted prediction"
_SUMMARY = "Tickets for predictions on secret shares. Shares go to the parties, never through here."
_DOCUMENTED_KEYS = [
    Security(HTTPBearer(auto_error=False)),
    Security(APIKeyHeader(name="x-api-key", auto_error=False)),
]


class Refusal(BaseModel):
    """Why a request was not answered. After 409, 429 and 503 another one may be."""

    error: str


def make_app(front_end: FrontEnd, service: Service, raw: Predict | None = None) -> FastAPI:
    """Returns the ASGI application.

    Args:
      front_end: what the paths do.
      service: what is served.
      raw: answers rows in the clear; None leaves that path out.
    """
    app = FastAPI(
        title=_TITLE,
        description=_SUMMARY,
        docs_url=None,
        redoc_url=None,
        responses={"default": {"model": Refusal, "description": "A refusal."}},
    )
    _explain_errors(app)
    _add_health(app, service)
    _add_service(app, front_end, service)
    if raw is not None:
        _add_raw_rows(app, front_end, raw)
    return app


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Answers as long as the process lives."""
        return {"status": "alive"}

    @app.get("/readyz")
    async def readyz() -> Response:
        """Answers 200 while a version is active, else 503."""
        ready = service.active is not None
        return JSONResponse({"status": "ready" if ready else "not ready"}, 200 if ready else 503)


def _add_service(app: FastAPI, front_end: FrontEnd, service: Service) -> None:
    known = _known_clients(front_end)

    @app.get("/v1/model", dependencies=known)
    async def model() -> dict[str, Any]:
        """Returns the model card: what answers, how to encode a row for it, and who could see rows."""
        return front_end.active().card

    @app.post("/v1/requests", dependencies=_DOCUMENTED_KEYS)
    async def ticket(request: Request, wanted: TicketRequest) -> TicketAnswer:
        """Returns leave for one request: an id that works once, until its deadline, at three parties."""
        return front_end.ticket(front_end.client(request.headers), wanted)

    @app.get("/v1/status", dependencies=known)
    async def status() -> dict[str, Any]:
        """Returns what is served or why nothing is, counters, and the threat model."""
        return service.describe()


def _add_raw_rows(app: FastAPI, front_end: FrontEnd, raw: Predict) -> None:
    @app.post("/v1/predict", dependencies=_known_clients(front_end))
    async def predict(request: Request, rows: RawRows) -> RawAnswer:
        """Answers rows in the clear, which this front end then sees: it does what a client would."""
        return await raw(rows, sent_key(request.headers))


def _known_clients(front_end: FrontEnd) -> list[Any]:
    """Returns what refuses a request without a key that is known, and documents how one is sent."""

    async def client(request: Request) -> str:
        return front_end.client(request.headers)

    return [Depends(client), *_DOCUMENTED_KEYS]


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
