"""The directory of a federation: who it is, its keys, its members, its workspace. Closed to other users."""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedpipe.config_errors import explain
from fedpipe.errors import ConfigError, FederationError, WorkspaceError
from fedpipe.federation import pki
from fedpipe.federation.enrolment import Address, FederationName, HostName, split_address
from fedpipe.files import make_private_directory, write_text
from fedpipe.signing import hold_key
from fedpipe.yaml_files import read_yaml

if TYPE_CHECKING:
    from fedpipe.pipeline import Workspace

SETTINGS = "federation.yaml"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
PRIVATE = b"-----BEGIN PRIVATE KEY-----"
RENEW_BEFORE = dt.timedelta(days=30)


class FederationFile(BaseModel):
    """federation.yaml: what an operator may edit. `up` reads it when it starts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: FederationName = Field(description="What members see.")
    address: Address = Field(description="HOST:PORT that nodes connect to, as they see it.")
    listen: Address | Literal[""] = Field(
        "", description="HOST:PORT to listen on; empty: loopback, at the address's port."
    )
    hosts: tuple[HostName, ...] = Field(
        (), description="Further names and addresses of the server certificate."
    )
    max_message_bytes: int = Field(1 << 30, ge=1 << 20, description="Of one node's answer.")
    max_calls_per_second: float = Field(100.0, gt=0, description="Of one node, over ten seconds.")

    @classmethod
    def checked(cls, found: Mapping[str, object], source: str) -> FederationFile:
        """Returns the settings in `found`, which came from `source`.

        Raises:
          ConfigError: naming the first that does not fit.
        """
        try:
            return cls.model_validate(dict(found))
        except ValidationError as error:
            raise ConfigError(explain(error, cls, found, source, overridable=False)) from error

    @property
    def listen_address(self) -> tuple[str, int]:
        """Where the one public port listens."""
        return split_address(self.listen) if self.listen else ("127.0.0.1", split_address(self.address)[1])


class FederationHome:
    """Paths and keys of one federation.

    Raises:
      ConfigError: there is none at `root`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        if not (self.root / SETTINGS).is_file():
            raise ConfigError(
                f"Expected a federation in {root}, found no {SETTINGS}: make one with fedpipe federation "
                "init, or name its directory with --dir."
            )
        if self.root.stat().st_mode & 0o077:
            raise ConfigError(f"Expected {root} closed to other users, found it open: chmod 700 {root}.")

    @classmethod
    def create(cls, root: Path, settings: FederationFile, now: dt.datetime) -> FederationHome:
        """Returns a new federation in `root`, which must be empty or missing."""
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise ConfigError(f"Expected no directory or an empty one at {root}, found another: choose one.")
        make_private_directory(root.absolute())
        root.chmod(0o700)
        authority = pki.make_authority(settings.name, now)
        write_text(root / "ca.pem", pki.to_pem(authority.certificate))
        write_text(root / "ca-key.pem", pki.private_pem(authority.key))
        hold_key(root / "signing.pem")
        # Last of all: a directory without it is no federation.
        _write_settings(root / SETTINGS, settings)
        home = cls(root)
        home.renew_certificate(now)
        return home

    @property
    def settings(self) -> FederationFile:
        """The settings as they are now.

        Raises:
          ConfigError: the file does not hold them.
        """
        path = self.root / SETTINGS
        found = read_yaml(path)
        if not isinstance(found, dict):
            raise ConfigError(f"Expected the settings of a federation in {path}, found none: restore them.")
        return FederationFile.checked(found, SETTINGS)

    @property
    def ca_certificate(self) -> str:
        """What nodes trust, as PEM."""
        return (self.root / "ca.pem").read_text()

    @property
    def signing_key_path(self) -> Path:
        """The federation's own key, which signs the certificates of its models."""
        return self.root / "signing.pem"

    @property
    def certificates(self) -> tuple[bytes, bytes, bytes]:
        """(authority, server certificate, server key) as Flower takes them."""
        certificate, begin, rest = (self.root / "server.pem").read_bytes().partition(PRIVATE)
        return (self.root / "ca.pem").read_bytes(), certificate, begin + rest

    @property
    def state_path(self) -> Path:
        """Flower's own state: nodes, runs, messages under way."""
        return self.root / "superlink.sqlite"

    @property
    def bundles(self) -> Path:
        """Where Flower keeps bundles. Ours holds no code: nodes run what their owners installed."""
        return self.root / "bundles"

    @property
    def log_path(self) -> Path:
        """One JSON object a line."""
        return self.root / "log.jsonl"

    def socket(self, name: str) -> str:
        """Returns the address of a socket inside the directory, which only its owner can open."""
        return socket_address(self.root / f"{name}.sock")

    def workspace(self) -> Workspace:
        """Returns where the coordinator keeps runs, models and the paper trail."""
        from fedpipe.pipeline import Workspace  # it brings databases along

        return Workspace(self.root / "workspace")

    def renew_certificate(self, now: dt.datetime) -> bool:
        """Issues the server certificate if there is none, or it expires soon or lacks a host."""
        hosts = _hosts(self.settings)
        if not self._is_due(hosts, now):
            return False
        authority = pki.read_authority(self.root / "ca.pem", self.root / "ca-key.pem")
        certificate, key = authority.issue(hosts, now)
        # In one file: a handshake, or a crash, between two would meet a certificate with another's key.
        write_text(self.root / "server.pem", certificate + key)
        write_text(self.root / "server-hosts.txt", "\n".join(hosts) + "\n")
        return True

    def _is_due(self, hosts: Sequence[str], now: dt.datetime) -> bool:
        path = self.root / "server.pem"
        if not path.exists() or not (self.root / "server-hosts.txt").exists():
            return True
        issued = (self.root / "server-hosts.txt").read_text().split()
        _, certificate, key = self.certificates
        if not key:  # another version kept it elsewhere
            return True
        expires = pki.expires_at(pki.read_certificate(certificate.decode()))
        return issued != list(hosts) or expires - now < RENEW_BEFORE

    @contextmanager
    def up_lock(self) -> Iterator[None]:
        """Makes sure that one `up` runs at a time."""
        lock = FileLock(self.root / "up.lock", mode=0o600)
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            raise WorkspaceError(
                f"Expected federation {self.settings.name} to be down, found it up already: see "
                "fedpipe federation status."
            ) from error
        try:
            (self.root / "up.pid").write_text(f"{os.getpid()}\n")
            yield
        finally:
            (self.root / "up.pid").unlink(missing_ok=True)
            lock.release()

    def check_up(self) -> None:
        """Raises FederationError unless `up` runs."""
        lock = FileLock(self.root / "up.lock", mode=0o600)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return
        lock.release()
        raise FederationError(
            f"Expected federation {self.settings.name} to be up, found it down: fedpipe federation up."
        )


def socket_address(path: Path) -> str:
    """Returns gRPC's address of a Unix socket.

    A socket's path has 107 bytes at most (unix(7)), so a longer one goes through a descriptor of its folder.
    """
    if len(str(path)) > 100:
        descriptor = os.open(path.parent, os.O_RDONLY)
        path = Path(f"/proc/self/fd/{descriptor}") / path.name
    return f"unix:{path}"


def _hosts(settings: FederationFile) -> tuple[str, ...]:
    public = split_address(settings.address)[0]
    return tuple(dict.fromkeys((public, *settings.hosts, *LOOPBACK)))


def _write_settings(path: Path, settings: FederationFile) -> None:
    lines = []
    for name, field in FederationFile.model_fields.items():
        value = settings.model_dump(mode="json")[name]
        lines += [f"# {field.description}", f"{name}: {json.dumps(value)}"]
    write_text(path, "\n".join(lines) + "\n")
