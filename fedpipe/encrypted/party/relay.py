"""Ways out of and into an enclave whose committee is spread over several hosts.

Inside the namespace every process of the committee has its address on the loopback interface. Behind the
addresses of those on other hosts stands a relay, which hands the bytes to a tunnel outside, through a Unix
socket in a folder that only this user can open; the tunnel does TLS with the other host's.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import threading
from typing import Callable, List, Sequence

_CHUNK = 1 << 16
_BACKLOG = 64
Connect = Callable[[socket.socket], socket.socket]


def open_relays(outward: Sequence[int], inner: Sequence[int], tunnel: str, inward: str) -> None:
    """Listens at the ports `outward` for those inside, at the socket `inward` for those outside."""
    for port in outward:
        _serve(socket.create_server(("127.0.0.1", port)), functools.partial(_ask, tunnel, port))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(inward)
    listener.listen(_BACKLOG)
    _serve(listener, functools.partial(_enter, list(inner)))


def _serve(listener: socket.socket, connect: Connect) -> None:
    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_relay, args=(connection, connect), daemon=True).start()

    threading.Thread(target=accept, name="relay", daemon=True).start()


def _ask(tunnel: str, port: int, _connection: socket.socket) -> socket.socket:
    other = socket.socket(socket.AF_UNIX)
    other.connect(tunnel)
    other.sendall(b"%d\n" % port)
    return other


def _enter(allowed: List[int], connection: socket.socket) -> socket.socket:
    line = b""
    while not line.endswith(b"\n") and len(line) < 8:
        line += connection.recv(1) or b"\n"
    port = int(line)
    if port not in allowed:
        raise ValueError("Expected a port of this enclave.")
    return socket.create_connection(("127.0.0.1", port))


def _relay(connection: socket.socket, connect: Connect) -> None:
    with contextlib.suppress(OSError, ValueError), connection, connect(connection) as other:
        back = threading.Thread(target=_copy, args=(other, connection), daemon=True)
        back.start()
        _copy(connection, other)
        back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        for each in (source, target):
            if each.family != socket.AF_UNIX:
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            data = source.recv(_CHUNK)
            if not data:
                break
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
