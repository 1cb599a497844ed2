"""Starts processes of a committee in a network namespace of their own; they end with what this returns."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedpipe.encrypted.provisioning import environment
from server.encrypted.options import ISOLATION

_FIRST_PORT = 22310


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Loopback ports inside the namespace: the same in every committee, since nobody else is there."""

    tensorflow: tuple[int, ...]
    control: tuple[int, ...]
    coordinator: int

    @classmethod
    def isolated(cls) -> Addresses:
        """Returns the ports in a namespace of one's own."""
        return cls._of(range(_FIRST_PORT, _FIRST_PORT + 7))

    @classmethod
    def free(cls) -> Addresses:
        """Returns ports that nobody uses now, for a namespace that others share."""
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(7)]
            return cls._of([each.getsockname()[1] for each in sockets])

    @classmethod
    def _of(cls, ports: Sequence[int]) -> Addresses:
        return cls(tensorflow=tuple(ports[:3]), control=tuple(ports[3:6]), coordinator=ports[6])

    def shared(self) -> dict[str, Any]:
        """Returns what every process is told."""
        hosts = [f"127.0.0.1:{port}" for port in self.tensorflow]
        return {"hosts": hosts, "coordinator_host": f"127.0.0.1:{self.coordinator}"}


async def spawn_enclave(
    *,
    python: Path,
    log: Path,
    folder: Path,
    roles: Sequence[dict[str, Any]],
    isolated: bool = True,
    relay: dict[str, Any] | None = None,
) -> asyncio.subprocess.Process:
    """Returns the process that holds the others.

    Args:
      python: of the parties' environment.
      log: takes what they say: never a row, a share or a weight.
      folder: their working directory, closed to other users.
      roles: settings of each process; a `listener` is a descriptor that is handed in.
      isolated: False leaves them in this namespace.
      relay: ways to the committee's processes on other hosts.
    """
    listeners = [role["listener"] for role in roles if "listener" in role]
    with log.open("ab") as stream:
        process = await asyncio.create_subprocess_exec(
            *(ISOLATION if isolated else ()),
            python,
            "-m",
            "party",
            "enclave",
            stdin=asyncio.subprocess.PIPE,
            stdout=stream,
            stderr=stream,
            pass_fds=listeners,
            env=environment(),
            cwd=folder,
        )
    settings = {"isolated": isolated, "roles": list(roles), "relay": relay}
    if process.stdin is not None:
        process.stdin.write(json.dumps(settings).encode() + b"\n")
        await process.stdin.drain()
    return process


async def end(process: asyncio.subprocess.Process) -> None:
    """Ends an enclave: its processes end with its standard input."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
