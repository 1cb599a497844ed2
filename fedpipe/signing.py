"""Signatures of ledgers and certificates: Ed25519 (RFC 8032) over canonical JSON."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from fedpipe.errors import LedgerError
from fedpipe.files import canonical_json, draft, make_private_directory, sync_directory

PUBLIC_KEY_BYTES = 32


@dataclass(frozen=True)
class SigningKey:
    """A private key, which its repr does not show."""

    _private: Ed25519PrivateKey = field(repr=False)

    @property
    def public(self) -> str:
        """The public half: 32 bytes in base64."""
        raw = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return base64.b64encode(raw).decode()

    def sign(self, statement: Mapping[str, Any]) -> str:
        """Returns the signature of the canonical JSON of `statement`: 64 bytes in base64.

        Every kind of statement must say what it is in a field of its own, so that one can never be taken
        for another.
        """
        return base64.b64encode(self._private.sign(canonical_json(statement).encode())).decode()


def is_signed(statement: Mapping[str, Any], *, signature: str, public: str) -> bool:
    """Returns whether the owner of `public` signed `statement`; malformed input is not signed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     key = hold_key(Path(folder) / "key.pem")
    >>> statement = {"kind": "example", "number": 1}
    >>> is_signed(statement, signature=key.sign(statement), public=key.public)
    True
    >>> is_signed({**statement, "number": 2}, signature=key.sign(statement), public=key.public)
    False
    """
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public, validate=True))
        key.verify(base64.b64decode(signature, validate=True), canonical_json(statement).encode())
    except (ValueError, InvalidSignature):
        return False
    return True


def is_public_key(text: str) -> bool:
    """Returns whether `text` is an Ed25519 public key as `SigningKey.public` writes it."""
    try:
        return len(base64.b64decode(text, validate=True)) == PUBLIC_KEY_BYTES
    except ValueError:
        return False


def hold_key(path: Path) -> SigningKey:
    """Returns the key in `path`, made there (mode 600) if there is none; the same for all processes.

    Raises:
      LedgerError: the file is no private key, or other users can read it.
    """
    if not path.exists():
        _create(path)
    return read_key(path)


def read_key(path: Path) -> SigningKey:
    """Returns the key in `path`.

    Raises:
      LedgerError: there is none, it is no private key, or other users can read it.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise LedgerError(f"Expected a signing key in {path}, found none: restore it.") from error
    if status.st_mode & 0o077:
        raise LedgerError(f"Expected a signing key that only its owner can read, found {path}: chmod 600.")
    return _read(path, f"{status.st_ino}-{status.st_mtime_ns}-{status.st_size}")


@lru_cache(maxsize=64)
def _read(path: Path, _stamp: str) -> SigningKey:
    try:
        found = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise LedgerError(
            f"Expected an Ed25519 private key in {path}, found something else: restore it."
        ) from error
    if not isinstance(found, Ed25519PrivateKey):
        raise LedgerError(f"Expected an Ed25519 private key in {path}, found another kind.")
    return SigningKey(found)


def _create(path: Path) -> None:
    """Makes a new key appear at `path` complete, unless another process was faster."""
    make_private_directory(path.parent)
    private = Ed25519PrivateKey.generate()
    data = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with (
        draft(path, lambda stream: stream.write(data)) as complete,
        suppress(FileExistsError),  # the other process's key is the one to use
    ):
        os.link(complete, path)
    sync_directory(path.parent)
