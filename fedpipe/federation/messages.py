"""What coordinator and clients say to each other, free of any transport."""

from __future__ import annotations

import hashlib
import io
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedpipe.errors import FederationError
from fedpipe.files import canonical_json

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Request:
    """One question to a client. Equal content has an equal digest, and gets an equal answer."""

    run_id: str
    step: str
    server_round: int = 0
    attempt: int = 0
    values: Mapping[str, Any] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 over identity and content."""
        identity = [self.run_id, self.step, self.server_round, self.attempt]
        return hashlib.sha256(encode(identity, self.values, self.arrays)).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A client's answer."""

    client: str
    values: Mapping[str, Any] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A client that did not answer, and what it lets the coordinator know about why.

    `kind` names the exception of fedpipe.errors behind it, where there is one.
    """

    client: str
    reason: str
    kind: str = ""


class Clients(Protocol):
    """The data owners, as a step sees them."""

    def ask(self, request: Request, *, timeout_seconds: float) -> tuple[list[Reply], list[Refusal]]:
        """Returns the answers in order of client name, and the refusals, after a bounded wait."""


def encode(identity: Any, values: Mapping[str, Any], arrays: Arrays) -> bytes:
    """Returns one unambiguous byte string for a message's content."""
    stream = io.BytesIO()
    names = sorted(arrays)
    head = canonical_json({"identity": identity, "values": dict(values), "arrays": names}).encode()
    stream.write(struct.pack(">Q", len(head)))
    stream.write(head)
    for name in names:
        np.lib.format.write_array(stream, np.asarray(arrays[name]), allow_pickle=False)
    return stream.getvalue()


def decode(data: bytes) -> tuple[Any, dict[str, Any], dict[str, NDArray[Any]]]:
    """Returns (identity, values, arrays) of `encode`.

    Raises:
      FederationError: if the bytes are not what `encode` makes.
    """
    stream = io.BytesIO(data)
    try:
        (length,) = struct.unpack(">Q", stream.read(8))
        head = json.loads(stream.read(length))
        arrays = {
            name: np.lib.format.read_array(stream, allow_pickle=False) for name in head["arrays"]
        }
        return head["identity"], head["values"], arrays
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise FederationError("Expected a well-formed message, found other bytes.") from error


def encode_reply(reply: Reply) -> bytes:
    """Returns the stored form of `reply`: what an identical request gets again."""
    return encode(reply.client, reply.values, reply.arrays)


def decode_reply(data: bytes) -> Reply:
    """Returns the reply that `encode_reply` stored."""
    client, values, arrays = decode(data)
    return Reply(client=client, values=values, arrays=arrays)


def sum_arrays(replies: list[Reply], name: str) -> NDArray[Any]:
    """Returns the sum of one array over replies.

    Raises:
      FederationError: if a reply lacks it or has another shape.
    """
    arrays = [reply.arrays[name] for reply in replies if name in reply.arrays]
    if len(arrays) < len(replies) or len({array.shape for array in arrays}) != 1:
        raise FederationError(f"Expected an array {name!r} of one shape from every client, found otherwise.")
    total: NDArray[Any] = np.sum(np.stack(arrays), axis=0)
    return total
