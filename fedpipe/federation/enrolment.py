"""How a node becomes a member: an invitation goes out, a request comes back, both as small JSON files.

The invitation holds nothing of the server that is secret, but a code that is good for one request. The
request holds the node's public key and its ledger's, a proof that its maker has the code (an HMAC,
RFC 2104), and a signature by the key itself: whoever reads it on the way can neither use the code nor
swap the key.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import ipaddress
import re
import secrets
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from fedpipe.errors import ConfigError, FederationError
from fedpipe.federation.pki import PrivateKey, is_signed_by, public_text, read_public, sign
from fedpipe.files import canonical_json, sha256
from fedpipe.signing import is_public_key

MAX_FILE_BYTES = 64 << 10
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?"
_HOST = rf"(?:\[[0-9A-Fa-f:]+\]|{_NAME})"
_ADDRESS = re.compile(rf"(?P<host>{_HOST}):(?P<port>[0-9]{{1,5}})")


def _checked_name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", text):
        raise ValueError(f"expected a name of small letters, digits, '-' and '_', found {text!r}")
    return text


def _checked_host(text: str) -> str:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        if not re.fullmatch(_NAME, text):
            raise ValueError(
                f"expected a host's name in ASCII letters (IDNA writes others as xn--...) or its IP address, "
                f"found {text!r}"
            ) from None
    return text


def _checked_address(text: str) -> str:
    split_address(text)
    return text


FederationName = Annotated[str, AfterValidator(_checked_name)]
HostName = Annotated[str, AfterValidator(_checked_host)]
Address = Annotated[str, AfterValidator(_checked_address)]
ClientName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


def _checked_key(text: str) -> str:
    if not is_public_key(text):
        raise ValueError("expected an Ed25519 public key in base64")
    return text


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Invitation(_File):
    """What an operator hands to one data owner. The code is a secret between the two."""

    kind: Literal["fedpipe invitation"] = "fedpipe invitation"
    version: Literal[1] = 1
    federation: FederationName
    client: ClientName
    address: str
    ca_certificate: str
    code: str = Field(repr=False, min_length=16)
    expires_at: dt.datetime


class JoinRequest(_File):
    """A node's request to be admitted.

    `ledger_key` is the public half of the key with which its ledger vouches for what it was charged.
    `declared_size` is public by its owner's declaration.
    """

    kind: Literal["fedpipe request"] = "fedpipe request"
    version: Literal[1] = 1
    federation: FederationName
    client: ClientName
    public_key: str
    ledger_key: Annotated[str, AfterValidator(_checked_key)]
    declared_size: int | None = Field(None, ge=1)
    proof: str = ""
    signature: str = ""

    def statement(self) -> bytes:
        """What the code proves and the key signs."""
        return canonical_json(self.model_dump(mode="json", exclude={"proof", "signature"})).encode()


def make_code() -> str:
    """Returns a fresh one-time code of 160 bits."""
    return secrets.token_urlsafe(20)


def make_request(
    invitation: Invitation, key: PrivateKey, *, ledger_key: str, declared_size: int | None = None
) -> JoinRequest:
    """Returns the request that answers `invitation`."""
    request = JoinRequest(
        federation=invitation.federation,
        client=invitation.client,
        public_key=public_text(key.public_key()),
        ledger_key=ledger_key,
        declared_size=declared_size,
    )
    proof = _proof(code_digest(invitation.code), request.statement())
    signature = base64.b64encode(sign(key, request.statement())).decode()
    return request.model_copy(update={"proof": proof, "signature": signature})


def check_request(request: JoinRequest, digest: str) -> None:
    """Checks that the maker of `request` knew the code behind `digest` and holds the key.

    Raises:
      FederationError: either is not so.
    """
    if not hmac.compare_digest(request.proof, _proof(digest, request.statement())):
        raise FederationError(
            f"Expected a request made with the invitation of {request.client}, found another: it may be an "
            "older one's, or changed on the way."
        )
    try:
        signature = base64.b64decode(request.signature, validate=True)
    except ValueError:
        signature = b""
    if not is_signed_by(read_public(request.public_key), request.statement(), signature):
        raise FederationError("Expected a request signed by the key that it names, found another signature.")


def code_digest(code: str) -> str:
    """Returns what the operator keeps of a code."""
    return sha256(b"fedpipe invitation:" + code.encode())


def _proof(digest: str, statement: bytes) -> str:
    return hmac.new(digest.encode(), statement, hashlib.sha256).hexdigest()


FileType = TypeVar("FileType", bound=_File)


def parse_file(data: bytes, kind: type[FileType], name: str) -> FileType:
    """Returns an invitation or a request from its bytes, which may come from anybody.

    Raises:
      FederationError: they are something else.
    """
    if len(data) > MAX_FILE_BYTES:
        raise FederationError(f"Expected {name} of {MAX_FILE_BYTES} bytes at most, found {len(data)}.")
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise FederationError(f"Expected {name}, found something else: ask for the file again.") from error


def split_address(address: str) -> tuple[str, int]:
    """Returns the host and port of `address`.

    >>> split_address("fed.example.org:9092"), split_address("[::1]:443")
    (('fed.example.org', 9092), ('::1', 443))

    Raises:
      ConfigError: it is not of the form HOST:PORT.
    """
    found = _ADDRESS.fullmatch(address)
    port = int(found["port"]) if found else 0
    if found is None or not 1 <= port <= 65535:
        raise ConfigError(
            f"Expected an address such as fed.example.org:9092 or [::1]:9092, found {address!r}."
        )
    return found["host"].strip("[]"), port
