"""One file that says where a committee's parties live when they are not all on one host."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from fedpipe.errors import ConfigError

COORDINATOR = "coordinator"
Address = Annotated[str, StringConstraints(pattern=r"^[^:\s]+:\d{1,5}$")]
Port = Annotated[int, Field(ge=1, le=65535)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PartyHost(_Section):
    """Where a party lives: HOST:PORT for the other hosts, and two ports for clients, used by turns."""

    tunnel: Address
    client_ports: tuple[Port, Port]

    @property
    def host(self) -> str:
        """The name by which clients reach it."""
        return self.tunnel.rpartition(":")[0]


class Deployment(_Section):
    """The same file on all four hosts.

    Attributes:
      coordinator: HOST:PORT of the host with coordinator and front end, for the parties.
      operators_differ: whether no operator runs two of the parties, or one and the coordinator. It is a
        promise between people, which no program can check.
    """

    coordinator: Address
    parties: tuple[PartyHost, PartyHost, PartyHost]
    operators_differ: bool

    def tunnel(self, name: str) -> tuple[str, int]:
        """Returns host and port of `coordinator`, `party0`, `party1` or `party2`."""
        address = self.coordinator if name == COORDINATOR else self.parties[int(name[-1])].tunnel
        host, _, port = address.rpartition(":")
        return host, int(port)


def party_name(index: int) -> str:
    """Returns the name that a party's certificate for the other hosts must hold."""
    return f"party{index}"


def read_deployment(path: Path) -> Deployment:
    """Returns what the file says.

    Raises:
      ConfigError: it cannot be read, or says something else.
    """
    try:
        return Deployment.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"Expected a deployment in {path}, found none that can be read.") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"Expected a deployment in {path}, found at {place or 'the top'}: {first['msg']}."
        ) from error


class Credentials(_Section):
    """A host's certificate for the other hosts, its key, and the authority that all of them trust."""

    authority: Path
    certificate: Path
    key: Path

    def context(self, purpose: ssl.Purpose) -> ssl.SSLContext:
        """Returns TLS settings that show our certificate and insist on the other side's.

        Raises:
          ConfigError: a file is not what it should be.
        """
        try:
            # Only this authority: those of the machine would let strangers in.
            context = ssl.create_default_context(purpose, cafile=str(self.authority))
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_cert_chain(self.certificate, self.key, password="")
        except OSError as error:  # of which ssl.SSLError is one
            raise ConfigError(
                f"Expected PEM files in {self.authority}, {self.certificate} and {self.key}, found others."
            ) from error
        return context


def read_credentials(
    authority: Path | None, certificate: Path | None, key: Path | None
) -> Credentials | None:
    """Returns what the three options name, or None if none was given.

    Raises:
      ConfigError: some were.
    """
    if authority is None and certificate is None and key is None:
        return None
    if authority is None or certificate is None or key is None:
        raise ConfigError("Expected --tunnel-cert, --tunnel-key and --tunnel-authority together.")
    return Credentials(authority=authority, certificate=certificate, key=key)
