"""What `fedpipe encrypted up` was told, checked before anything is started."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from fedpipe.errors import ConfigError, EncryptedError
from server.encrypted.deployment import Credentials, Deployment
from server.listening import check_certificate
from server.prediction.access import KeyRing
from server.prediction.options import is_loopback

ISOLATION = ("unshare", "--map-root-user", "--net")


@dataclass(frozen=True, kw_only=True)
class UpOptions:
    """Everything that an encrypted prediction service needs to know.

    Attributes:
      model: its name; `version` None follows the newest registered one.
      host: of front end and parties; `public_host` is the name that clients use, if another.
      party_ports: two for each party, of which a committee takes one and its successor the other; none: any.
      home: of the parties' environment.
      deployment: the hosts of the parties, and `credentials` for them; None keeps all on this one.
      authority: of the certificates that parties on other hosts show their clients.
      rows_per_minute: that one key may ask for.
      buckets: numbers of rows that are computed at once; none: what suits the model.
      max_growth_bytes: of any process of a committee, after which another committee takes over: TensorFlow
        2.9's server keeps a little of every call.
    """

    workspace: Path
    model: str
    home: Path
    version: int | None = None
    host: str = "127.0.0.1"
    public_host: str | None = None
    port: int = 8601
    party_ports: tuple[int, ...] = ()
    api_key_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    unisolated: bool = False
    operator_sees_rows: bool = False
    accept_raw_rows: bool = False
    rows_per_minute: int = 100_000
    deadline_seconds: float = 30.0
    poll_seconds: float = 1.0
    buckets: tuple[int, ...] = ()
    max_growth_bytes: int = 1 << 30
    deployment: Deployment | None = None
    credentials: Credentials | None = None
    authority: Path | None = None

    @property
    def sees_rows(self) -> bool:
        """Whether one operator holds enough shares to see rows."""
        return self.deployment is None or not self.deployment.operators_differ

    @property
    def party_authority(self) -> str | None:
        """Whom the model owner trusts to name the parties; None: the authorities of this machine."""
        if self.deployment is None and self.tls_cert is not None:
            return str(self.tls_cert)
        return str(self.authority) if self.authority else None

    @property
    def tls(self) -> tuple[str, str] | None:
        """Certificate and key, by absolute path."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        return str(self.tls_cert.absolute()), str(self.tls_key.absolute())

    @property
    def public_name(self) -> str:
        """The host in the addresses that clients are told."""
        name = self.public_host or self.host
        return f"[{name}]" if ":" in name else name

    @property
    def state_path(self) -> Path:
        """Where `status` and `down` find a running service."""
        return state_path(self.workspace)

    def check(self) -> KeyRing | None:
        """Returns the API keys, once it is clear that the options go together and the promise can be held.

        Raises:
          ConfigError: they do not go together.
          EncryptedError: the parties cannot be isolated, or nobody said that they are one operator's.
        """
        if self.sees_rows and not self.operator_sees_rows:
            raise EncryptedError(
                "Expected --operator-sees-rows, since one operator runs all three parties and could join "
                "their shares: give it, and every answer says so; or "
                "run the parties on three operators' hosts."
            )
        if (self.deployment is None) != (self.credentials is None):
            raise ConfigError(
                "Expected --deployment with --tunnel-cert, --tunnel-key and --tunnel-authority."
            )
        if self.deployment is not None and self.unisolated:
            raise ConfigError("Expected parties on several hosts to be isolated, found --unisolated.")
        if not self.unisolated:
            check_isolation()
        if not is_loopback(self.host) and (self.tls is None or self.api_key_file is None):
            raise ConfigError(
                f"Expected TLS and API keys on {self.host}, which others can reach: "
                "give --tls-cert, --tls-key and --api-key-file."
            )
        if self.tls is not None:
            check_private_certificate(self.tls)
        if len(self.party_ports) not in (0, 6):
            raise ConfigError(f"Expected six --party-ports, two a party, found {len(self.party_ports)}.")
        return KeyRing(self.api_key_file) if self.api_key_file else None


def state_path(workspace: Path) -> Path:
    """Returns where a running service describes itself."""
    return workspace.absolute() / "encrypted" / "state.json"


def parse_model(reference: str) -> tuple[str, int | None]:
    """Returns name and version of NAME[:VERSION].

    >>> parse_model("heart:3"), parse_model("heart")
    (('heart', 3), ('heart', None))
    """
    name, colon, number = reference.partition(":")
    if colon and not number.isdecimal():
        raise ConfigError(f"Expected --model NAME or NAME:VERSION, found {reference!r}.")
    return name, int(number) if colon else None


def parse_numbers(option: str, text: str) -> tuple[int, ...]:
    """Returns the numbers of a list with commas.

    >>> parse_numbers("--buckets", "1,32")
    (1, 32)
    """
    try:
        numbers = tuple(int(number) for number in text.split(",")) if text else ()
    except ValueError:
        numbers = (0,)
    if min(numbers, default=1) < 1:
        raise ConfigError(f"Expected {option} to be positive numbers with commas, found {text!r}.")
    return numbers


def check_isolation() -> None:
    """Raises EncryptedError unless this machine lets us make a network namespace."""
    found = shutil.which(ISOLATION[0])
    tried = found and subprocess.run([*ISOLATION, "true"], capture_output=True, check=False, timeout=20)
    if not tried or tried.returncode != 0:
        raise EncryptedError(
            f"Expected '{' '.join(ISOLATION)}' to make a network namespace, found that it does not: the "
            "parties' TensorFlow ports would be open to every user of this machine. Allow user namespaces, "
            "run as root, or give --unisolated where no other user can log in."
        )


def check_private_certificate(tls: tuple[str, str]) -> None:
    """Raises ConfigError unless these files are a certificate and its key, which nobody else can read."""
    check_certificate(*tls)
    if os.stat(tls[1]).st_mode & 0o077:
        raise ConfigError(f"Expected a key that only its owner can read, found {tls[1]}: chmod 600.")
