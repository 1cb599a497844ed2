"""A party's own door: shares come in and go out over its TLS, in its process."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as LateError
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Optional

from . import pairs, tickets
from .inbox import FullError, Inbox, UsedError

if TYPE_CHECKING:
    from .pairs import Pair
    from .weights import Weights

_PREFIX = "/v1/shares/"
_IDLE_SECONDS = 60
_MAX_CONNECTIONS = 512


class RefusalError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Desk:
    """What a request is checked against and where it goes."""

    secret: bytes
    inbox: Inbox
    weights: Weights
    width: int
    max_bytes: int

    def handle(self, request_id: str, body: bytes) -> bytes:
        """Returns the answer's body; blocks until it is known.

        Raises:
          RefusalError: the ticket or the body is wrong, or the time is over.
        """
        try:
            ticket = tickets.check(self.secret, request_id, time.time())
            pair = pairs.decode(body)
        except tickets.InvalidTicketError as error:
            raise RefusalError(403, str(error)) from error
        except pairs.InvalidPairError as error:
            raise RefusalError(400, str(error)) from error
        if ticket.kind == tickets.WEIGHTS:
            return self._keep_weights(ticket, pair)
        if pair[0].shape != (ticket.number, self.width):
            raise RefusalError(400, f"Expected shares of {ticket.number} rows of {self.width} numbers.")
        return self._compute(request_id, ticket, pair)

    def _keep_weights(self, ticket: tickets.Ticket, pair: Pair) -> bytes:
        if not self.weights.put(ticket.number, pair):
            raise RefusalError(409, "Expected each weight once.")
        return b""

    def _compute(self, request_id: str, ticket: tickets.Ticket, pair: Pair) -> bytes:
        try:
            answer = self.inbox.submit(request_id, pair, ticket.expires)
            return pairs.encode(answer.result(timeout=ticket.expires - time.time()))
        except UsedError as error:
            raise RefusalError(409, "Expected a fresh request id, found one that was used.") from error
        except FullError as error:
            raise RefusalError(429, "Expected fewer requests at once: try again later.") from error
        except (LateError, CancelledError) as error:
            self.inbox.forget(request_id)
            raise RefusalError(504, "Expected the other parties' shares before the deadline.") from error


def open_endpoint(listener: socket.socket, desk: Desk, tls: Optional[ssl.SSLContext]) -> None:
    """Answers on `listener` in threads of its own, for as long as the process lives."""

    class Handler(_Handler):
        pass

    Handler.desk = desk
    server = _Server(listener, Handler, tls)
    threading.Thread(target=server.serve_forever, name="endpoint", daemon=True).start()


def server_context(certificate: str, key: str) -> ssl.SSLContext:
    """Returns the TLS settings of a party."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key, password="")
    return context


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, listener: socket.socket, handler: Any, tls: Optional[ssl.SSLContext]) -> None:
        super().__init__(listener.getsockname()[:2], handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self._tls = tls
        self._places = threading.BoundedSemaphore(_MAX_CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            request.settimeout(_IDLE_SECONDS)
            # Here, in the connection's own thread: a slow handshake keeps nobody else waiting.
            if self._tls is not None:
                request = self._tls.wrap_socket(request, server_side=True)
            super().process_request_thread(request, client_address)
        except OSError:  # of which ssl.SSLError is one: the client went away, or spoke no TLS
            request.close()
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: a traceback could show what was sent."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # one packet for headers and body
    server_version, sys_version = "fedpipe", ""
    desk: Desk

    def do_PUT(self) -> None:
        try:
            self._answer(200, self.desk.handle(self._request_id(), self._body()))
        except RefusalError as refusal:
            body = json.dumps({"error": str(refusal)}).encode()
            self._answer(refusal.status, body, "application/json")

    def do_GET(self) -> None:
        found = self.path == "/healthz"
        body = {"status": "alive"} if found else {"error": f"Expected PUT {_PREFIX}{{request_id}}."}
        self._answer(200 if found else 404, json.dumps(body).encode(), "application/json")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it so
        """Logs nothing: paths hold request ids."""

    def _request_id(self) -> str:
        if not self.path.startswith(_PREFIX):
            self.close_connection = True  # its body stays unread
            raise RefusalError(404, f"Expected PUT {_PREFIX}{{request_id}}.")
        return self.path[len(_PREFIX) :]

    def _body(self) -> bytes:
        length = self.headers.get("content-length", "")
        if not length.isascii() or not length.isdigit():
            self.close_connection = True
            raise RefusalError(411, "Expected a content-length.")
        if int(length) > self.desk.max_bytes:
            self.close_connection = True
            raise RefusalError(413, f"Expected at most {self.desk.max_bytes} bytes.")
        body = self.rfile.read(int(length))
        if len(body) != int(length):
            self.close_connection = True
            raise RefusalError(400, "Expected as many bytes as content-length says.")
        return body

    def _answer(self, status: int, body: bytes, kind: str = "application/octet-stream") -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        if self.close_connection:
            self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
