"""Stands at a public port and passes bytes on, unread, to a Unix socket behind which TLS and gRPC serve.

gRPC takes every connection that comes, for as long as it likes to stay. Here each passes `Connections` first,
and reaches gRPC no earlier than with the whole first record of a TLS handshake. gRPC knows a connection by
the name that its end of the Unix socket is bound to, so that calls can be told apart by who made them.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from fedpipe.federation.connections import Connections

HELLO_SECONDS = 5.0
LOOK_SECONDS = 1.0
LAST_BYTES_SECONDS = 10.0  # for what the server said before it closed
MAX_BACKLOG = 1024
BUFFER_BYTES = 1 << 20
HANDSHAKE, TLS_MAJOR, RECORD_HEADER_BYTES, MAX_RECORD_BYTES = 0x16, 3, 5, 1 << 14
# A peer that has vanished is noticed within two minutes.
KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Relay:
    """Takes connections in a thread of its own.

    Args:
      address: host and port to listen on.
      target: path of the Unix socket.
      connections: decides which may stay.

    Raises:
      OSError: the address is taken, or none of this machine.
    """

    def __init__(self, address: tuple[str, int], target: str, connections: Connections) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._listener = socket.create_server(
            address, family=family, backlog=MAX_BACKLOG, dualstack_ipv6=address[0] == "::"
        )
        self._target, self._connections = target, connections
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),), daemon=True, name="relay")
        self._stop: Callable[[], None] = self._listener.close
        self._serving = threading.Event()

    def start(self) -> None:
        """Begins to take connections."""
        self._thread.start()
        self._serving.wait()

    def stop(self) -> None:
        """Ends all connections."""
        self._stop()
        if self._thread.is_alive():
            self._thread.join()

    async def _serve(self) -> None:
        loop, stopping = asyncio.get_running_loop(), asyncio.Event()
        self._stop = lambda: _soon(loop, stopping.set)
        serving = await asyncio.start_server(
            self._take, sock=self._listener, backlog=MAX_BACKLOG, limit=BUFFER_BYTES
        )
        self._serving.set()
        while not stopping.is_set():
            self._connections.end_late()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(stopping.wait(), LOOK_SECONDS)
        serving.close()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection from its beginning to its end."""
        abort, loop = writer.transport.abort, asyncio.get_running_loop()
        peer = writer.get_extra_info("peername")
        name = peer and self._connections.open(peer[:2], lambda: _soon(loop, abort))
        if not name:
            abort()
            return
        # Whoever breaks off, or never spoke TLS, is simply gone.
        try:
            with suppress(OSError, EOFError, asyncio.TimeoutError):
                _keep_alive(writer.get_extra_info("socket"))
                hello = await asyncio.wait_for(_read_hello(reader), HELLO_SECONDS)
                self._connections.heard(name)
                await self._pass_on(name, hello, (reader, writer))
        finally:
            self._connections.closed(name)
            abort()

    async def _pass_on(self, name: str, hello: bytes, outer: Streams) -> None:
        inner = await self._connect(name)
        try:
            inner[1].write(hello)
            copies = [
                asyncio.create_task(_copy(source[0], sink[1]))
                for source, sink in ((outer, inner), (inner, outer))
            ]
            _, rest = await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait(rest, timeout=LAST_BYTES_SECONDS) if rest else None
            for each in rest:
                each.cancel()
        finally:
            inner[1].transport.abort()

    async def _connect(self, name: str) -> Streams:
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            end.setblocking(False)
            end.bind(f"\0{name}")
            await asyncio.get_running_loop().sock_connect(end, self._target)
            return await asyncio.open_unix_connection(sock=end, limit=BUFFER_BYTES)
        except BaseException:
            end.close()
            raise


async def _read_hello(reader: asyncio.StreamReader) -> bytes:
    """Returns the first record of a TLS handshake (RFC 8446, section 5.1); EOFError if it is none."""
    header = await reader.readexactly(RECORD_HEADER_BYTES)
    length = int.from_bytes(header[3:], "big")
    if header[0] != HANDSHAKE or header[1] != TLS_MAJOR or not 0 < length <= MAX_RECORD_BYTES:
        raise EOFError("no TLS")
    return header + await reader.readexactly(length)


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Passes bytes on until there are no more of them, no faster than they are taken."""
    with suppress(OSError):
        while content := await source.read(BUFFER_BYTES):
            sink.write(content)
            await sink.drain()
    sink.close()


def _keep_alive(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            end.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    """Has `loop` make a call, unless it has ended."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(call)
