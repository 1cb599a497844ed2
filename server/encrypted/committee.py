"""A committee: three parties and a coordinator that serve one model version, and are replaced together."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fedpipe.encrypted.party import tickets
from fedpipe.errors import EncryptedError
from server.encrypted.enclave import Addresses, end, spawn_enclave

Result = TypeVar("Result")

# Generous: who starts on a busy machine should become active, late, and not begin again and again.
_START_SECONDS = 360.0
_LOAD_SECONDS = 1800.0
_LINE_BYTES = 1 << 20
_GONE = "Expected the coordinator to live, found it gone."
_WEIGHT_BYTES = 64 << 20  # of one weight's shares


@dataclass(frozen=True, kw_only=True)
class PartyDoor:
    """Where clients reach a party of this host: a socket that listens, its URL and, off loopback, TLS."""

    listener: socket.socket
    url: str
    tls: tuple[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class CommitteeSettings:
    """What does not change from one committee to the next.

    Attributes:
      python: of the parties' environment.
      deadline_seconds: of a request; a run that takes as long is a fault.
      silence_seconds: a process that says nothing for as long is a fault.
    """

    python: Path
    log: Path
    isolated: bool = True
    deadline_seconds: float = 30.0
    silence_seconds: float = 10.0
    max_requests: int = 128


@dataclass(eq=False)
class Committee:
    """The processes of one committee. `failure` is done, with the reason, when they can serve no more.

    Rows are computed in `buckets`: as many at once as the smallest of these numbers that is enough.
    `release` is called when the doors are needed no more.
    """

    settings: CommitteeSettings
    doors: Sequence[PartyDoor]
    input_width: int
    buckets: tuple[int, ...]
    release: Callable[[], None] = lambda: None
    secret: bytes = field(default_factory=tickets.new_secret, repr=False)
    failure: asyncio.Future[str] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _server: asyncio.Server | None = None
    _process: asyncio.subprocess.Process | None = None
    _folder: Path | None = None

    async def start(self) -> None:
        """Returns when the three parties and the coordinator know each other.

        Raises:
          EncryptedError: they did not start, or one lacks the secure random operation.
        """
        self._folder = folder = Path(tempfile.mkdtemp(prefix="fedpipe-"))
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._asking = asyncio.Lock()
        operator = folder / "operator"
        self._server = await asyncio.start_unix_server(self._accept, operator, limit=_LINE_BYTES)
        self._process = await self._spawn(operator)
        self._tasks.append(asyncio.create_task(self._watch(self._process)))
        await self._expect("ready", _START_SECONDS)

    async def load(self, layers: Sequence[dict[str, Any]], num_weights: int) -> dict[str, float]:
        """Has the parties use the weights they were brought; returns the seconds of tracing by bucket."""
        await self._tell({"op": "load", "layers": list(layers), "num_weights": num_weights})
        event = await self._expect("loaded", _LOAD_SECONDS)
        return dict(event["tracing_seconds"])

    async def status(self) -> dict[str, Any]:
        """Returns counters and memory of the processes."""
        async with self._asking:
            await self._tell({"op": "status"})
            event = await self._expect("status", self.settings.silence_seconds)
        return {key: value for key, value in event.items() if key != "event"}

    @property
    def urls(self) -> tuple[str, ...]:
        """Where clients reach the parties."""
        return tuple(door.url for door in self.doors)

    def ticket(self, kind: int, number: int, seconds: float) -> str:
        """Returns a fresh id for rows or weights."""
        return tickets.issue(self.secret, tickets.Ticket(kind, number, time.time() + seconds))

    async def unless_failed(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Returns what `work` returns.

        Raises:
          EncryptedError: the committee failed meanwhile.
        """
        task = asyncio.create_task(work)
        either: list[asyncio.Future[Any]] = [task, self.failure]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise EncryptedError(self.failure.result())
        finally:
            task.cancel()

    async def close(self) -> None:
        """Ends the processes, which drops all they hold."""
        for task in self._tasks:
            task.cancel()
        if self._server is not None:
            self._server.close()
        if self._process is not None:
            await end(self._process)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self.release()

    async def _spawn(self, operator: Path) -> asyncio.subprocess.Process:
        settings = self.settings
        addresses = Addresses.isolated() if settings.isolated else Addresses.free()
        token = secrets.token_hex(32)
        parties = [
            {**self._party(index, addresses, token), "listener": door.listener.fileno(), "tls": door.tls}
            for index, door in enumerate(self.doors)
        ]
        return await spawn_enclave(
            python=settings.python,
            log=settings.log,
            folder=operator.parent,
            roles=[*parties, self._coordinator(addresses, token, operator)],
            isolated=settings.isolated,
        )

    def _party(self, index: int, addresses: Addresses, token: str) -> dict[str, Any]:
        return {
            "role": "party",
            "index": index,
            "control": ("127.0.0.1", addresses.control[index]),
            "control_token": token,
            "secret": self.secret.hex(),
            "input_width": self.input_width,
            "max_requests": self.settings.max_requests,
            "max_bytes": max(_WEIGHT_BYTES, 1024 + 16 * self.input_width * max(self.buckets)),
            **addresses.shared(),
        }

    def _coordinator(self, addresses: Addresses, token: str, operator: Path) -> dict[str, Any]:
        return {
            "role": "coordinator",
            "controls": [("127.0.0.1", port) for port in addresses.control],
            "control_token": token,
            "operator": str(operator),
            "input_width": self.input_width,
            "buckets": self.buckets,
            "deadline_seconds": self.settings.deadline_seconds,
            "silence_seconds": self.settings.silence_seconds,
            **addresses.shared(),
        }

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._tasks.append(asyncio.create_task(self._listen(reader)))

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            event = json.loads(line)
            if event["event"] == "fault":
                self._fail(event["error"])
            else:
                self._events.put_nowait(event)
        self._fail(_GONE)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        await process.wait()
        await asyncio.sleep(0.2)  # what the coordinator said last says more
        self._fail(f"Expected the parties to live, found them gone: {self.settings.log} may say why.")

    def _fail(self, reason: str) -> None:
        if not self.failure.done():
            self.failure.set_result(reason)

    async def _tell(self, message: dict[str, Any]) -> None:
        if self.failure.done():
            raise EncryptedError(self.failure.result())
        self._writer.write(json.dumps(message).encode() + b"\n")
        try:
            await self._writer.drain()
        except OSError as error:
            self._fail(_GONE)
            raise EncryptedError(self.failure.result()) from error

    async def _expect(self, kind: str, seconds: float) -> dict[str, Any]:
        """Returns the next event, which must be of this kind."""
        try:
            event = await asyncio.wait_for(self.unless_failed(self._events.get()), seconds)
        except asyncio.TimeoutError:
            event = {"event": "nothing"}
        if event["event"] != kind:
            self._fail(f"Expected the parties to be {kind} in {seconds:.0f} s, found {event['event']}.")
            raise EncryptedError(self.failure.result())
        return event
