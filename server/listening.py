"""What services listen with: sockets, certificates, and a web server that leaves signals alone."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from fedpipe.errors import ConfigError


class WebServer(uvicorn.Server):
    """uvicorn, with its signals left to its owner: more than the web server must stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves them as they are."""
        yield


def bind_socket(host: str, port: int, *, option: str, backlog: int | None = None) -> socket.socket:
    """Returns a TCP socket at that address; it listens if it was given a `backlog`.

    Raises:
      ConfigError: the address cannot be had; another `option` may mend it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Only of sockets that name their protocol does asyncio switch Nagle's algorithm off.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        if backlog is not None:
            bound.listen(backlog)
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"Expected to listen on {host}:{port}, found: {error.strerror}. Choose another {option}."
        ) from error
    return bound


def check_certificate(certificate: Path | str, key: Path | str) -> None:
    """Raises ConfigError unless these PEM files are a certificate and its unencrypted key."""
    try:
        # An encrypted key would otherwise ask the terminal for its password.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except OSError as error:  # of which ssl.SSLError is one
        raise ConfigError(
            f"Expected a PEM certificate in {certificate} and its unencrypted key in {key}, "
            "found something else."
        ) from error
