"""The parties' addresses: each committee gets listening sockets of its own, made outside its namespace."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from fedpipe.errors import ConfigError
from server.encrypted.committee import PartyDoor
from server.encrypted.options import UpOptions
from server.listening import bind_socket

_BACKLOG = 128


class Doors:
    """Opens three doors at a time, at fixed ports by turns or at any."""

    def __init__(self, options: UpOptions) -> None:
        self._options = options
        ports = options.party_ports or (0,) * 6
        self._free = [ports[0::2], ports[1::2]]

    def open(self) -> list[PartyDoor]:
        """Returns doors for the three parties of a committee.

        Raises:
          ConfigError: a port is taken, or both sets are in use.
        """
        if not self._free:
            raise ConfigError("Expected one of the two sets of party ports to be free, found none yet.")
        ports = self._free[0]
        doors = [self._door(port) for port in ports]
        if any(ports):
            self._free.pop(0)
        return doors

    def release(self, doors: Sequence[PartyDoor]) -> None:
        """Closes doors; their ports can be opened again."""
        ports = tuple(door.listener.getsockname()[1] for door in doors)
        for door in doors:
            door.listener.close()
        if self._options.party_ports:
            self._free.append(ports)

    def _door(self, port: int) -> PartyDoor:
        listener = listen(self._options.host, port)
        scheme = "https" if self._options.tls else "http"
        url = f"{scheme}://{self._options.public_name}:{listener.getsockname()[1]}"
        return PartyDoor(listener=listener, url=url, tls=self._options.tls)


def listen(host: str, port: int) -> socket.socket:
    """Returns a listening socket.

    Raises:
      ConfigError: the address cannot be had.
    """
    return bind_socket(host, port, option="port", backlog=_BACKLOG)
