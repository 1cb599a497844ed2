"""Tickets: unguessable request ids that carry what they are good for, under a MAC (RFC 2104).

Parties need not be told of a ticket before its holder comes. To whom it was given is not in it.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import struct
from dataclasses import dataclass

ROWS, WEIGHTS = 1, 2
_FIELDS = struct.Struct(">BId16s")
_MAC_BYTES = 16


class InvalidTicketError(ValueError):
    """The ticket was not issued here, or its time is over."""


@dataclass(frozen=True)
class Ticket:
    """What a request may bring: `number` rows, or the weights of that number; until `expires` (Unix time)."""

    kind: int
    number: int
    expires: float


def new_secret() -> bytes:
    """Returns a key for the tickets of one committee."""
    return secrets.token_bytes(32)


def issue(secret: bytes, ticket: Ticket) -> str:
    """Returns a fresh id for the ticket.

    >>> secret = new_secret()
    >>> issue(secret, Ticket(ROWS, 2, 10.0)) != issue(secret, Ticket(ROWS, 2, 10.0))
    True
    >>> check(secret, issue(secret, Ticket(ROWS, 2, 10.0)), now=9.0)
    Ticket(kind=1, number=2, expires=10.0)
    """
    fields = _FIELDS.pack(ticket.kind, ticket.number, ticket.expires, secrets.token_bytes(16))
    return base64.urlsafe_b64encode(fields + _mac(secret, fields)).decode().rstrip("=")


def check(secret: bytes, request_id: str, now: float) -> Ticket:
    """Returns the ticket of an id.

    Raises:
      InvalidTicketError: it was not issued under this secret, was altered, or its time is over.
    """
    try:
        data = base64.urlsafe_b64decode(request_id.encode("ascii") + b"=" * (-len(request_id) % 4))
    except (UnicodeEncodeError, binascii.Error) as error:
        raise InvalidTicketError("Expected a request id of ours.") from error
    fields, mac = data[: _FIELDS.size], data[_FIELDS.size :]
    if len(fields) != _FIELDS.size or not hmac.compare_digest(mac, _mac(secret, fields)):
        raise InvalidTicketError("Expected a request id of ours.")
    kind, number, expires, _ = _FIELDS.unpack(fields)
    if now >= expires:
        raise InvalidTicketError("Expected a request before its deadline.")
    return Ticket(kind, number, expires)


def _mac(secret: bytes, fields: bytes) -> bytes:
    return hmac.digest(secret, fields, "sha256")[:_MAC_BYTES]
