"""A party's host: runs one party for a coordinator elsewhere, for as long as that one stays connected."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedpipe.encrypted.provisioning import find_environment
from fedpipe.errors import ConfigError, FedpipeError
from fedpipe.files import make_private_directory
from server.encrypted.deployment import Credentials, Deployment, party_name
from server.encrypted.doors import listen
from server.encrypted.enclave import Addresses, end, spawn_enclave
from server.encrypted.options import check_isolation, check_private_certificate
from server.encrypted.spread import port_owners, relay_settings
from server.encrypted.tunnel import Tunnel


@dataclass(frozen=True, kw_only=True)
class PartyOptions:
    """What `fedpipe encrypted party` was told.

    Attributes:
      tls: certificate and key that clients see.
      folder: takes the log.
    """

    deployment: Deployment
    credentials: Credentials
    index: int
    tls: tuple[str, str]
    home: Path
    folder: Path
    host: str = "0.0.0.0"  # noqa: S104  # clients come from elsewhere


def run_party_host(options: PartyOptions, say: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
      ConfigError: a file or an address cannot be used.
      EncryptedError: the environment or the isolation is not to be had.
    """
    check_isolation()
    check_private_certificate(options.tls)
    python = find_environment(options.home)
    make_private_directory(options.folder)
    asyncio.run(_serve(_PartyHost(options, python, say), options))


async def _serve(host: _PartyHost, options: PartyOptions) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    try:
        await host.tunnel.listen()
    except OSError as error:
        raise ConfigError(
            f"Expected to listen at {options.deployment.parties[options.index].tunnel}, "
            f"found: {error.strerror}."
        ) from error
    host.say(f"party {options.index}: waiting for the coordinator")
    await stopping.wait()
    await host.tunnel.close()


class _PartyHost:
    def __init__(self, options: PartyOptions, python: Path, say: Callable[[str], None]) -> None:
        self._options = options
        self._python = python
        self.say = say
        self._name = party_name(options.index)
        self._free = list(options.deployment.parties[options.index].client_ports)
        self.tunnel = Tunnel(options.deployment, options.credentials, self._name, self._start)

    async def _start(
        self, greeting: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Runs the party that the coordinator describes until it, or the connection, ends."""
        folder = Path(tempfile.mkdtemp(prefix="fedpipe-"))
        committee = str(greeting["committee"])
        port = self._free.pop(0) if self._free else 0
        try:
            await self._run(committee, greeting["start"], folder, port, (reader, writer))
        except FedpipeError as error:
            writer.write(json.dumps({"error": str(error)}).encode() + b"\n")
        finally:
            self.tunnel.dismiss(committee)
            shutil.rmtree(folder, ignore_errors=True)
            if port:
                self._free.append(port)
            self.say(f"party {self._options.index}: ended")

    async def _run(
        self,
        committee: str,
        role: dict[str, Any],
        folder: Path,
        port: int,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        if not port:
            raise ConfigError("Expected one of the two client ports to be free, found none yet.")
        options, addresses = self._options, Addresses.isolated()
        with listen(options.host, port) as listener:
            wanted = {
                **role,
                "role": "party",
                "index": options.index,
                "listener": listener.fileno(),
                "tls": options.tls,
            }
            leaving = await self.tunnel.admit(committee, folder, port_owners(addresses))
            process = await spawn_enclave(
                python=self._python,
                log=options.folder / "party.log",
                folder=folder,
                roles=[wanted],
                relay=relay_settings(addresses, self._name, folder),
            )
        try:
            await self._announce(port, streams[1])
            await _first_of(process.wait(), streams[0].read())
        finally:
            leaving.close()
            await end(process)

    async def _announce(self, port: int, writer: asyncio.StreamWriter) -> None:
        host = self._options.deployment.parties[self._options.index].host
        writer.write(json.dumps({"url": f"https://{host}:{port}"}).encode() + b"\n")
        await writer.drain()
        self.say(f"party {self._options.index}: started, for clients at https://{host}:{port}")


async def _first_of(*work: Any) -> None:
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
