"""What `fedpipe serve` was told, checked before anything heavy is imported."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedpipe.errors import ConfigError
from server.prediction.access import KeyRing
from server.prediction.sources import Catalogue


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Everything that a server needs to know. A port of None is not served, 0 is any free one.

    Attributes:
      poll_seconds: between two looks at the disk.
      timeout_seconds: until a model must have answered.
      client_seconds: that a slow client may keep a connection waiting.
      drain_seconds: for what is under way when the server is told to stop.
      num_threads: of TensorFlow's pools, and model calls at once.
    """

    catalogue: Catalogue
    roots: tuple[Path, ...]
    workspace: Path | None = None
    host: str = "127.0.0.1"
    rest_port: int | None = 8501
    grpc_port: int | None = 8500
    api_key_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insecure: bool = False
    max_batch_rows: int = 256
    max_request_bytes: int = 64 << 20
    max_in_flight: int = 512
    poll_seconds: float = 1.0
    timeout_seconds: float = 30.0
    client_seconds: float = 30.0
    drain_seconds: float = 30.0
    num_threads: int = 0

    @property
    def threads(self) -> int:
        """The cores that this process may use, unless a number was given."""
        return self.num_threads or len(os.sched_getaffinity(0))

    def check(self) -> KeyRing | None:
        """Returns the API keys, once it is clear that the options go together.

        Raises:
          ConfigError: they do not, or a file cannot be read.
        """
        if self.rest_port is None and self.grpc_port is None:
            raise ConfigError("Expected a REST or a gRPC port, found neither.")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("Expected --tls-cert and --tls-key together, found one of them.")
        for path in (self.tls_cert, self.tls_key):
            if path is not None and not path.is_file():
                raise ConfigError(f"Expected a PEM file at {path}, found none.")
        safe = self.tls_cert is not None and self.api_key_file is not None
        if not safe and not self.insecure and not is_loopback(self.host):
            raise ConfigError(
                f"Expected TLS and API keys to serve on {self.host}, which others can reach: "
                "give --tls-cert, --tls-key and --api-key-file, or --insecure if something else protects it."
            )
        return KeyRing(self.api_key_file) if self.api_key_file else None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


Say = Callable[[str], None]
