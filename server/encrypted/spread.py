"""A committee on several hosts: the parties at their operators', the coordinator here."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedpipe.errors import EncryptedError
from server.encrypted.committee import Committee
from server.encrypted.deployment import COORDINATOR, party_name
from server.encrypted.enclave import Addresses, spawn_enclave
from server.encrypted.tunnel import Tunnel

_START_SECONDS = 60.0


@dataclass(eq=False, kw_only=True)
class SpreadCommittee(Committee):
    """Lives as long as its connection to each of the three hosts."""

    tunnel: Tunnel
    _name: str = field(default_factory=lambda: secrets.token_hex(16))
    _urls: tuple[str, ...] = ()
    _hosts: list[asyncio.StreamWriter] = field(default_factory=list)
    _leaving: asyncio.Server | None = None

    @property
    def urls(self) -> tuple[str, ...]:
        """Where clients reach the parties, as their hosts said."""
        return self._urls

    async def close(self) -> None:
        """Ends the coordinator, and with their connections the parties."""
        for writer in self._hosts:
            writer.close()
        if self._leaving is not None:
            self._leaving.close()
        self.tunnel.dismiss(self._name)
        await super().close()

    async def _spawn(self, operator: Path) -> asyncio.subprocess.Process:
        addresses, token, folder = Addresses.isolated(), secrets.token_hex(32), operator.parent
        owners = port_owners(addresses)
        self._leaving = await self.tunnel.admit(self._name, folder, owners)
        roles = [self._party(index, addresses, token) for index in range(3)]
        self._urls = tuple(await asyncio.gather(*map(self._start_party, range(3), roles)))
        return await spawn_enclave(
            python=self.settings.python,
            log=self.settings.log,
            folder=folder,
            roles=[self._coordinator(addresses, token, operator)],
            relay=relay_settings(addresses, COORDINATOR, folder),
        )

    async def _start_party(self, index: int, role: dict[str, Any]) -> str:
        """Returns the address at which the party's host lets clients in."""
        try:
            reader, writer = await self.tunnel.dial(
                party_name(index), {"committee": self._name, "start": role}
            )
            self._hosts.append(writer)
            answer = json.loads(await asyncio.wait_for(reader.readline(), _START_SECONDS))
        except (OSError, ValueError, asyncio.TimeoutError) as error:
            raise EncryptedError(
                f"Expected the host of party {index} to start it, found {type(error).__name__}: "
                "is 'fedpipe encrypted party' running there, with its certificate?"
            ) from error
        if "url" not in answer:
            raise EncryptedError(str(answer.get("error", f"Expected party {index} to start.")))
        self._tasks.append(asyncio.create_task(self._watch_host(index, reader)))
        return str(answer["url"])

    async def _watch_host(self, index: int, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            await reader.read()
        await asyncio.sleep(0.2)  # what the coordinator said last says more
        self._fail(f"Expected the host of party {index} to stay, found it gone.")


def port_owners(addresses: Addresses) -> dict[int, str]:
    """Returns by port inside the namespace whose it is."""
    owners = {port: party_name(index) for index, port in enumerate(addresses.tensorflow)}
    owners.update({port: party_name(index) for index, port in enumerate(addresses.control)})
    return {**owners, addresses.coordinator: COORDINATOR}


def relay_settings(addresses: Addresses, name: str, folder: Path) -> dict[str, Any]:
    """Returns which ports stand for others in the enclave of `name`, and which are its own."""
    owners = port_owners(addresses)
    # Parties have no business at each other's control ports.
    needed = [port for port in owners if name == COORDINATOR or port not in addresses.control]
    return {
        "outward": [port for port in needed if owners[port] != name],
        "inner": [port for port, owner in owners.items() if owner == name],
        "tunnel": str(folder / "tunnel"),
        "inward": str(folder / "inward"),
    }
