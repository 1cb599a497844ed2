"""The web server's parts around the REST interface: health, figures, the OpenAPI document, slow clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from server.prediction.errors import ServingError
from server.prediction.metrics import CONTENT_TYPE
from server.prediction.openapi import openapi_document
from server.prediction.rest import Receive, RestApi, Scope, Send
from server.prediction.service import PredictionService


class WebApp:
    """The ASGI application: /v1/ goes straight to the REST interface, all else through FastAPI."""

    def __init__(self, service: PredictionService, is_ready: Callable[[], bool]) -> None:
        self._rest = RestApi(service)
        self._operations = make_operations(service, is_ready)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] == "http" and scope["path"][:4].lower() == "/v1/":
            await self._rest(scope, receive, send)
        elif scope["type"] == "http":
            await self._operations(scope, receive, send)


def make_operations(service: PredictionService, is_ready: Callable[[], bool]) -> FastAPI:
    """Returns what operators ask: /healthz and /readyz without a key, the rest with one."""
    # Its own pages would load scripts from elsewhere, and its own document would not know /v1/.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _explain_errors(app)
    _add_health(app, is_ready)
    _add_figures(app, service)
    return app


def _explain_errors(app: FastAPI) -> None:
    @app.exception_handler(ServingError)
    async def refused(request: Request, error: ServingError) -> Response:
        headers = {"www-authenticate": "Bearer"} if error.http_status == 401 else None
        return JSONResponse({"error": str(error)}, error.http_status, headers=headers)

    @app.exception_handler(HTTPException)
    async def misdirected(request: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


def _add_health(app: FastAPI, is_ready: Callable[[], bool]) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz")
    async def readyz() -> Response:
        ready = is_ready()
        return JSONResponse({"status": "ready" if ready else "not ready"}, 200 if ready else 503)


def _add_figures(app: FastAPI, service: PredictionService) -> None:
    async def check(request: Request) -> None:
        if service.keys is not None:
            service.keys.check(request.headers)

    known = [Depends(check)]

    @app.get("/metrics", dependencies=known)
    @app.get("/monitoring/prometheus/metrics", dependencies=known)
    async def metrics() -> Response:
        return PlainTextResponse(service.metrics.render(service.models), media_type=CONTENT_TYPE)

    @app.get("/openapi.json", dependencies=known)
    async def openapi() -> dict[str, Any]:
        return openapi_document(service.models, with_keys=service.keys is not None)


def bounded_protocol(base: type[Any], seconds: float) -> type[Any]:
    """Returns uvicorn's protocol `base` with an end for connections whose client keeps it waiting.

    A connection is closed when, at two looks `seconds` apart, it is the client's turn in the same
    request: its header or its body is on the way, or it does not read its answer.
    """

    class Bounded(base):  # type: ignore[misc]  # chosen at run time
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._awaited: Any = None
            self._watch = self.loop.call_later(seconds, self._look)

        def connection_lost(self, exc: Exception | None) -> None:
            self._watch.cancel()
            super().connection_lost(exc)

        def _look(self) -> None:
            # A cycle stands for its request; before the first one, the connection does.
            current = self.cycle or self
            is_waiting = self.cycle is None or self.cycle.response_complete or self.cycle.more_body
            is_unread = self.transport.get_write_buffer_size() > 0
            if (is_waiting or is_unread) and self._awaited is current:
                self.transport.abort()
                return
            self._awaited = current if is_waiting or is_unread else None
            self._watch = self.loop.call_later(seconds, self._look)

    return Bounded
