"""What coordinator and clients say to each other, free of any transport."""

from __future__ import annotations

import hashlib
import io
import json
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from fedpipe.errors import FederationError, Shortfall
from fedpipe.files import ordered_json
from fedpipe.ledger.entries import SignedHead

Arrays = Mapping[str, NDArray[Any]]
ABSENT = "absent"
LARGEST_COUNT = 2**48  # noise included; a sum over 30,000 clients stays within 64 bits


class Heads(BaseModel):
    """Heads of ledgers that travel beside a message: the sender's own, and the receiver's as last seen.

    They are no part of the message: of no digest, and of no stored reply.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sender: SignedHead | None = None
    receiver: SignedHead | None = None


@dataclass(frozen=True, kw_only=True)
class Request:
    """One question to a client. Equal content has an equal digest, and gets an equal answer."""

    run_id: str
    step: str
    server_round: int = 0
    attempt: int = 0
    values: Mapping[str, Any] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)
    heads: Heads = field(default=Heads(), compare=False)

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
    heads: Heads = field(default=Heads(), compare=False)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A client that did not answer, and what it lets the coordinator know about why.

    `kind` names the exception of fedpipe.errors behind it, where there is one; it is ABSENT when the
    client itself said nothing. A BudgetError has `shortfalls`.
    """

    client: str
    reason: str
    kind: str = ""
    shortfalls: tuple[Shortfall, ...] = ()


class Clients(Protocol):
    """The data owners, as a step sees them."""

    def ask(
        self, request: Request, *, timeout_seconds: float, only: Collection[str] | None = None
    ) -> tuple[list[Reply], list[Refusal]]:
        """Returns the answers in order of client name, and the refusals, after a bounded wait.

        Args:
          request: what to ask.
          timeout_seconds: how long to wait at most, for clients to connect as well.
          only: names of those to ask; by default, all. A client whose name is not known yet may be
            asked too; what others than these answer is left out. With no names, only those are asked
            that were not asked before.
        """


def encode(identity: Any, values: Mapping[str, Any], arrays: Arrays) -> bytes:
    """Returns one unambiguous byte string for a message's content."""
    stream = io.BytesIO()
    names = sorted(arrays)
    head = ordered_json({"identity": identity, "values": dict(values), "arrays": names}).encode()
    stream.write(struct.pack(">Q", len(head)))
    stream.write(head)
    for name in names:
        # In C order: how an array lies in memory is not content.
        array = np.asarray(arrays[name], order="C")
        np.lib.format.write_array(stream, array, allow_pickle=False)  # type: ignore[no-untyped-call]
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
        arrays = {name: _read_array(stream) for name in head["arrays"]}
        if stream.read(1):
            raise ValueError("Expected the end of the message, found more.")
        return head["identity"], dict(head["values"]), arrays
    except Exception as error:  # json and numpy raise many kinds for bytes that they did not write
        raise FederationError("Expected a well-formed message, found other bytes.") from error


def _read_array(stream: io.BytesIO) -> NDArray[Any]:
    array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)  # type: ignore[no-untyped-call]
    return array


def encode_reply(reply: Reply) -> bytes:
    """Returns the stored form of `reply`: what an identical request gets again."""
    return encode(reply.client, reply.values, reply.arrays)


def decode_reply(data: bytes) -> Reply:
    """Returns the reply that `encode_reply` stored."""
    client, values, arrays = decode(data)
    return Reply(client=client, values=values, arrays=arrays)


def array_of(reply: Reply, name: str, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
    """Returns one array of `reply`, which may come from anybody.

    Raises:
      FederationError: it is missing, of another shape, or holds anything but finite numbers.
    """
    array = reply.arrays.get(name)
    if array is None or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise FederationError(
            f"Expected finite numbers {name!r} from {reply.client}, found something else: "
            "is its fedpipe the same?"
        )
    if shape is not None and array.shape != shape:
        raise FederationError(
            f"Expected {name!r} of shape {shape} from {reply.client}, found {array.shape}: "
            "is its fedpipe the same?"
        )
    return array


def counts_of(reply: Reply, name: str, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Returns one array of whole numbers of `reply`, as counting queries answer.

    Raises:
      FederationError: as `array_of`; or a number is no integer, or beyond `LARGEST_COUNT`.
    """
    array = array_of(reply, name, shape)
    if array.dtype.kind not in "iu" or (array > LARGEST_COUNT).any() or (array < -LARGEST_COUNT).any():
        raise FederationError(
            f"Expected whole numbers {name!r} of at most {LARGEST_COUNT} from {reply.client}, found others: "
            "is its fedpipe the same?"
        )
    return array.astype(np.int64)


def sum_counts(replies: Sequence[Reply], name: str) -> NDArray[np.int64]:
    """Returns the sum over `replies`, at least one, of an array that `counts_of` has checked."""
    total: NDArray[np.int64] = np.sum([reply.arrays[name] for reply in replies], axis=0, dtype=np.int64)
    return total
