"""An encrypted prediction service for a linear model with public integer weights.

Such a model needs no talk between parties: each multiplies its own two shares. So three small HTTP servers,
of which none sees more than one pair, are a real service, and the client cannot tell it from another one.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpipe.encrypted.wire import Pair, decode_pair, encode_pair

Reply = tuple[int, bytes]


@dataclass
class Service:
    """Front end and parties on loopback. `faults` and `before` let a test spoil what it likes."""

    card: dict[str, Any]
    weights: NDArray[np.int64]
    bias: NDArray[np.int64]
    key: str | None = None
    context: Any = None
    faults: list[Callable[[int, Pair], Any]] = field(default_factory=list)
    refusals: list[Reply] = field(default_factory=list)
    seen: list[list[bytes]] = field(default_factory=lambda: [[], [], []])
    tickets: list[dict[str, Any]] = field(default_factory=list)
    changes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._issued: dict[str, tuple[int, set[int]]] = {}
        self._servers = [self._start(self._front)] + [self._start(self._party(index)) for index in range(3)]
        self.url, *self.party_urls = (
            f"http{'s' if self.context else ''}://127.0.0.1:{server.server_port}" for server in self._servers
        )

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def _start(self, answer: Callable[[str, str, Any, bytes], Reply]) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(answer))
        if self.context:
            server.socket = self.context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def _front(self, method: str, path: str, headers: Any, body: bytes) -> Reply:
        if self.key and headers.get("authorization") != f"Bearer {self.key}":
            return _error(401, "Expected a key, found none.")
        if (method, path) == ("GET", "/v1/model"):
            return 200, json.dumps(self.card).encode()
        if self.refusals:
            return self.refusals.pop(0)
        wanted = json.loads(body)
        if wanted["version"] != self.card["version"]:
            return _error(409, "Expected another version.")
        request_id = secrets.token_urlsafe(16)
        self._issued[request_id] = (wanted["rows"], set())
        names = ("model", "version", "certificate", "input_width", "num_outputs", "operator_sees_rows")
        self.tickets.append(
            {
                **{name: self.card[name] for name in names},
                "request_id": request_id,
                "rows": wanted["rows"],
                "deadline_seconds": 10.0,
                "parties": [{"index": index, "url": url} for index, url in enumerate(self.party_urls)],
                **self.changes,
            }
        )
        return 200, json.dumps(self.tickets[-1]).encode()

    def _party(self, index: int) -> Callable[[str, str, Any, bytes], Reply]:
        def answer(method: str, path: str, headers: Any, body: bytes) -> Reply:
            rows, used = self._issued.get(path.rsplit("/", 1)[1], (0, {index}))
            if index in used or headers.get("authorization"):
                return _error(403, "Expected a ticket, found none.")
            used.add(index)
            self.seen[index].append(body)
            pair = decode_pair(body, (rows, self.card["input_width"]))
            first, second = (share @ self.weights for share in pair)
            # A public number is added to one share: party 0's first and party 2's second are that share.
            first, second = first + self.bias * (index == 0), second + self.bias * (index == 2)
            for fault in self.faults:
                first, second = fault(index, (first, second))
            return 200, encode_pair((first, second))

        return answer


def _handler(answer: Callable[[str, str, Any, bytes], Reply]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, content = answer(self.command, self.path, self.headers, body)
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            if b"come back" in content:
                self.send_header("retry-after", "0")
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = handle_any  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


def _error(status: int, message: str) -> Reply:
    return status, json.dumps({"error": message}).encode()


def hang(index: int, pair: Pair) -> Pair:
    """A fault: party 1 takes too long."""
    time.sleep(3 * (index == 1))
    return pair
