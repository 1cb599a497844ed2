"""Between hosts: every connection of a committee goes through TLS in which both sides show who they are."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from server.encrypted.deployment import COORDINATOR, Credentials, Deployment, party_name

_CHUNK = 1 << 16
_GREETING_SECONDS = 10.0
_NAMES = {COORDINATOR, *(party_name(index) for index in range(3))}

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Start = Callable[[dict[str, Any], asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Tunnel:
    """This host's end.

    Args:
      name: `coordinator` or `party0` to `party2`, as in this host's certificate.
      start: does what the coordinator asks for; None where nobody may ask.
    """

    def __init__(
        self, deployment: Deployment, credentials: Credentials, name: str, start: Start | None = None
    ) -> None:
        self._deployment = deployment
        self._inbound = credentials.context(ssl.Purpose.CLIENT_AUTH)
        self._outbound = credentials.context(ssl.Purpose.SERVER_AUTH)
        self._name = name
        self._start = start
        self._enclaves: dict[str, Path] = {}
        self._connections: set[asyncio.Task[None]] = set()

    async def listen(self) -> None:
        """Begins to answer the other hosts."""
        host, port = self._deployment.tunnel(self._name)
        self._server = await asyncio.start_server(
            self._track(self._welcome), host, port, ssl=self._inbound, ssl_handshake_timeout=_GREETING_SECONDS
        )

    async def close(self) -> None:
        """Ends all connections."""
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def admit(self, committee: str, folder: Path, owners: Mapping[int, str]) -> asyncio.Server:
        """Connects an enclave: what it asks for at `folder`/tunnel goes to the port's owner."""
        self._enclaves[committee] = folder / "inward"

        async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            port = int(await reader.readline())
            other = await self.dial(owners[port], {"committee": committee, "port": port})
            await join((reader, writer), other)

        return await asyncio.start_unix_server(self._track(leave), folder / "tunnel")

    def dismiss(self, committee: str) -> None:
        """Lets nobody into that enclave any more."""
        self._enclaves.pop(committee, None)

    async def dial(self, name: str, greeting: Mapping[str, Any]) -> Streams:
        """Returns a connection to another host, which has shown that it is `name`."""
        host, port = self._deployment.tunnel(name)
        reader, writer = await asyncio.open_connection(
            host, port, ssl=self._outbound, server_hostname=name, ssl_handshake_timeout=_GREETING_SECONDS
        )
        writer.write(json.dumps(greeting).encode() + b"\n")
        await writer.drain()
        return reader, writer

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sender = _peer_names(writer) & _NAMES
        greeting = json.loads(await asyncio.wait_for(reader.readline(), _GREETING_SECONDS))
        if sender and "port" in greeting:
            inward = self._enclaves[greeting["committee"]]
            other = await asyncio.open_unix_connection(inward)
            other[1].write(b"%d\n" % int(greeting["port"]))
            await join((reader, writer), other)
        elif COORDINATOR in sender and self._start is not None:
            await self._start(greeting, reader, writer)

    def _track(
        self, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        """Returns `serve` as a task of ours, which ends quietly with its connection."""

        async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # Whatever a stranger sends, or a host that left: its connection ends.
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, asyncio.TimeoutError):
                await serve(reader, writer)
            writer.close()

        def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(run(reader, writer))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

        return begin


async def join(one: Streams, other: Streams) -> None:
    """Copies both ways until both sides have ended."""
    try:
        await asyncio.gather(_copy(one[0], other[1]), _copy(other[0], one[1]))
    finally:
        for _, writer in (one, other):
            writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    finally:
        # TLS of asyncio has no half-closed connections: the end of one direction is the end.
        writer.close()


def _peer_names(writer: asyncio.StreamWriter) -> set[str]:
    certificate = writer.get_extra_info("peercert") or {}
    return {value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"}
