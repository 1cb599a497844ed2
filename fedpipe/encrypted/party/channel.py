"""Orders and events between the processes of a committee: JSON, one object a line."""

from __future__ import annotations

import contextlib
import hmac
import json
import socket
import threading
import time
from typing import Any, Dict, Iterator, Tuple

Message = Dict[str, Any]
_MAX_LINE = 1 << 20


class Channel:
    """One connection. Any thread may send; one receives."""

    def __init__(self, connection: socket.socket) -> None:
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        self._lines = connection.makefile("rb")
        self._lock = threading.Lock()

    def send(self, message: Message) -> None:
        """Sends one message, whole."""
        data = json.dumps(message).encode() + b"\n"
        with self._lock:
            self._socket.sendall(data)

    def receive(self) -> Message:
        """Returns the next message.

        Raises:
          EOFError: the other side is gone, or speaks another language.
        """
        try:
            line = self._lines.readline(_MAX_LINE)
            message = json.loads(line) if line.endswith(b"\n") else None
        except (OSError, ValueError) as error:
            raise EOFError from error
        if not isinstance(message, dict):
            raise EOFError
        return message

    def __iter__(self) -> Iterator[Message]:
        """Yields messages until the other side is gone."""
        with contextlib.suppress(EOFError):
            while True:
                yield self.receive()


def connect(address: Tuple[str, int], token: str, seconds: float) -> Tuple[Channel, Message]:
    """Returns a channel to a process that may still be starting, and the first message from it.

    Raises:
      OSError: it says nothing in time.
      EOFError: it hangs up, time and again: behind a relay that is how one looks who does not listen.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return _try(address, token, deadline - time.monotonic())
        except (OSError, EOFError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _try(address: Tuple[str, int], token: str, seconds: float) -> Tuple[Channel, Message]:
    connection = socket.create_connection(address, timeout=max(seconds, 0.1))
    try:
        channel = Channel(connection)
        channel.send({"token": token})
        first = channel.receive()
        connection.settimeout(None)
    except BaseException:
        connection.close()
        raise
    return channel, first


def accept(listener: socket.socket, token: str) -> Channel:
    """Returns the first channel whose other side knows the token."""
    while True:
        connection, _ = listener.accept()
        connection.settimeout(10)
        channel = Channel(connection)
        try:
            found = str(channel.receive().get("token", ""))
        except EOFError:
            found = ""
        if hmac.compare_digest(found.encode(), token.encode()):
            connection.settimeout(None)
            return channel
        connection.close()
