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
_KEYS = (HTTPBearer(auto_error=False), APIKeyHeader(name="x-api-key", auto_error=False))


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

    def client(request: Request) -> str:
        return front_end.client(request.headers)

    documented = [Security(key) for key in _KEYS]
    known = [Depends(client), *documented]

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Answers as long as the process lives."""
        return {"status": "alive"}

    @app.get("/readyz")
    async def readyz() -> Response:
        """Answers 200 while a version is active, else 503."""
        ready = service.active is not None
        return JSONResponse({"status": "ready" if ready else "not ready"}, 200 if ready else 503)

    @app.get("/v1/model", dependencies=known)
    async def model() -> dict[str, Any]:
        """Returns the model card: what answers, how to encode a row for it, and who could see rows."""
        return front_end.active().card

    @app.post("/v1/requests", dependencies=documented)
    async def ticket(request: Request, wanted: TicketRequest) -> TicketAnswer:
        """Returns leave for one request: an id that works once, until its deadline, at three parties."""
        return front_end.ticket(client(request), wanted)

    @app.get("/v1/status", dependencies=known)
    async def status() -> dict[str, Any]:
        """Returns what is served or why nothing is, counters, and the threat model."""
        return service.describe()

    if raw is not None:

        @app.post("/v1/predict", dependencies=known)
        async def predict(request: Request, rows: RawRows) -> RawAnswer:
            """Answers rows in the clear, which this front end then sees: it does what a client would."""
            return await raw(rows, sent_key(request.headers))

    return app


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
