"""/metrics, /healthz and /readyz of a daemon, on loopback only: they ask nobody who he is."""

from __future__ import annotations

import ipaddress
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from fedpipe.errors import ConfigError
from fedpipe.federation.enrolment import split_address

CLIENT_SECONDS = 10.0
TEXT = "text/plain; charset=utf-8"
logger = logging.getLogger("fedpipe.monitoring")

Answer = tuple[int, str, bytes]


@contextmanager
def monitored(
    address: str,
    registry: CollectorRegistry,
    *,
    is_healthy: Callable[[], bool],
    is_ready: Callable[[], bool],
) -> Iterator[tuple[str, int]]:
    """Serves on HOST:PORT while the block works, and gives the address that it listens on.

    Args:
      address: on loopback; an empty one serves nothing.
      registry: what /metrics shows, in Prometheus' text format.
      is_healthy: whether the daemon works at all: a supervisor restarts it otherwise.
      is_ready: whether others can count on it now.

    Raises:
      ConfigError: the address is not on loopback, or taken.
    """
    if not address:
        yield "", 0
        return
    server = _bind(address, _handler(registry, is_healthy, is_ready))
    thread = threading.Thread(target=server.serve_forever, daemon=True, name="monitoring")
    thread.start()
    try:
        yield str(server.server_address[0]), int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_request: Any) -> None:
        """Tells what could not be shown, in one line: a state that is locked, a file that is damaged."""
        error = sys.exc_info()[1]
        if not isinstance(error, (ConnectionError, TimeoutError)):  # whoever asked has left
            logger.error("The figures cannot be shown (%s).", type(error).__name__)


def _bind(address: str, handler: type[BaseHTTPRequestHandler]) -> _Server:
    host, port = split_address(address)
    host = "127.0.0.1" if host == "localhost" else host
    if not _is_loopback(host):
        raise ConfigError(
            f"Expected metrics on loopback, such as 127.0.0.1:{port}, found {address}: they have no "
            "authentication; let a proxy that has one pass them on."
        )
    try:
        return _Server((host, port), handler)
    except OSError as error:
        raise ConfigError(
            f"Expected {address} to be free for metrics, found: {error.strerror}. Choose another --metrics."
        ) from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        return False


def _handler(
    registry: CollectorRegistry, is_healthy: Callable[[], bool], is_ready: Callable[[], bool]
) -> type[BaseHTTPRequestHandler]:
    pages: dict[str, Callable[[], Answer]] = {
        "/metrics": lambda: (200, CONTENT_TYPE_LATEST, generate_latest(registry)),
        "/healthz": lambda: _verdict(is_healthy()),
        "/readyz": lambda: _verdict(is_ready()),
    }

    class Handler(BaseHTTPRequestHandler):
        timeout = CLIENT_SECONDS

        def do_GET(self) -> None:
            page = pages.get(self.path.partition("?")[0])
            try:
                code, kind, body = page() if page else (404, TEXT, b"not found\n")
            except Exception:
                self.send_error(500)
                raise
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: Any) -> None:
            """Says nothing: a scrape is no news."""

    return Handler


def _verdict(holds: bool) -> Answer:
    return (200, TEXT, b"ok\n") if holds else (503, TEXT, b"no\n")
