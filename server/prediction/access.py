"""Who may ask: API keys, of which the server knows SHA-256 digests only."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from fedpipe.errors import ConfigError
from server.prediction.errors import Code, ServingError

_LINE = re.compile(r"([A-Za-z0-9._-]{1,64}):([0-9a-f]{64})")
_BEARER = re.compile(r"Bearer +(\S+) *", re.IGNORECASE)


class KeyRing:
    """The keys of a file of lines `NAME:SHA256`; `#` starts a comment.

    Raises:
      ConfigError: the file cannot be read, or a line is of another form.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digests = _read(path)
        self._changed = path.stat().st_mtime_ns

    def reload(self) -> bool:
        """Reads the file again if it changed; returns whether it did.

        Raises:
          ConfigError: it became unreadable. The keys stay what they were.
        """
        try:
            changed = self._path.stat().st_mtime_ns
        except OSError as error:
            raise _unreadable(self._path, error) from error
        if changed == self._changed:
            return False
        self._digests = _read(self._path)
        self._changed = changed
        return True

    def check(self, headers: Mapping[str, str]) -> str:
        """Returns the name of the key in `authorization` or `x-api-key`. All are compared, always.

        Raises:
          ServingError: it is no key, or there is none.
        """
        key = sent_key(headers) or ""
        digest = digest_key(key)
        matches = [name for name, known in self._digests.items() if hmac.compare_digest(digest, known)]
        if not key or not matches:
            raise ServingError(
                Code.UNAUTHENTICATED,
                "Expected an API key, as 'Authorization: Bearer KEY' or 'x-api-key: KEY'.",
            )
        return matches[0]


def sent_key(headers: Mapping[str, str]) -> str | None:
    """Returns the key that a request brought, whether it is one or not."""
    bearer = _BEARER.fullmatch(headers.get("authorization", ""))
    return bearer[1] if bearer else headers.get("x-api-key")


def digest_key(key: str) -> str:
    """Returns what the file holds of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def new_key(name: str) -> tuple[str, str]:
    """Returns a fresh key and its line for the file.

    Raises:
      ConfigError: the name does not fit on a line.
    """
    key = secrets.token_urlsafe(32)
    line = f"{name}:{digest_key(key)}"
    if not _LINE.fullmatch(line):
        raise ConfigError("Expected a key's name of at most 64 letters, digits, '.', '_' and '-'.")
    return key, line


def _read(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error
    digests: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        found = _LINE.fullmatch(text)
        if not found or found[1] in digests:
            raise ConfigError(
                f"Expected NAME:SHA256, each name once, in line {number} of {path}, found something else. "
                "Make lines with 'fedpipe serve --new-api-key NAME'."
            )
        digests[found[1]] = found[2]
    if not digests:
        raise ConfigError(
            f"Expected at least one key in {path}, found none: "
            "make one with 'fedpipe serve --new-api-key NAME'."
        )
    return digests


def _unreadable(path: Path, error: Exception) -> ConfigError:
    reason = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
    return ConfigError(f"Expected to read the API keys in {path}, found: {reason}.")
