"""The entries of a ledger: what each says, how they are chained by digests, and signed heads.

An entry's digest is the SHA-256 of the canonical JSON of `body`, `kind`, `made_at`, `position`,
`previous` (the digest before) and `totals`; its signature is that of the head which it makes. So a
head fixes every entry up to its position, and a stranger needs nothing but the entries to check it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from fedpipe.errors import LedgerError
from fedpipe.files import canonical_json, sha256
from fedpipe.ledger.blocks import BlockPolicy
from fedpipe.signing import SigningKey, is_signed

BEGINNING = "0" * 64
"""What stands for the digest before the first entry."""

LAST_POSITION = 2**31 - 1
"""What every store can number. A head beyond it is none."""


class SignedHead(BaseModel):
    """What a ledger was at one position. `ledger` is the public key under which it is known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ledger: str
    position: int = Field(ge=1, le=LAST_POSITION)
    digest: str = Field(pattern="^[0-9a-f]{64}$")
    signature: str

    @classmethod
    def sign(cls, key: SigningKey, position: int, digest: str) -> SignedHead:
        """Returns the head at `position`, signed by the ledger's key."""
        signature = key.sign(_statement(key.public, position, digest))
        return cls(ledger=key.public, position=position, digest=digest, signature=signature)

    @property
    def is_genuine(self) -> bool:
        """Whether the owner of the key `ledger` signed it."""
        statement = _statement(self.ledger, self.position, self.digest)
        return is_signed(statement, signature=self.signature, public=self.ledger)


def _statement(ledger: str, position: int, digest: str) -> dict[str, Any]:
    return {"kind": "fedpipe ledger head", "ledger": ledger, "position": position, "digest": digest}


class Body(BaseModel):
    """What an entry says; `kind` names it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str]


class LedgerMade(Body):
    """The first entry."""

    kind: ClassVar[str] = "ledger"

    public_key: str
    upgraded_from: str | None = None


class DivisionHeld(Body):
    """How a client's records fall into blocks, for ever."""

    kind: ClassVar[str] = "division"

    client: str
    division: str


class BlocksCreated(Body):
    """New blocks of one policy, with the Renyi divergence that each may spend in its lifetime."""

    kind: ClassVar[str] = "blocks"

    blocks: tuple[str, ...]
    privacy_unit: str
    neighboring_relation: str
    policy: BlockPolicy
    renyi_budget: float


class ReservedQuery(BaseModel):
    """`planned` releases of `event` on the claim's blocks of `splits`.

    One costs a block `divergences` at the block's Renyi order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: str
    splits: tuple[str, ...]
    event: dict[str, Any]
    planned: int = Field(ge=0)
    divergences: dict[int, float]


class ClaimReserved(Body):
    """One client's part of one run, with everything that it may cost."""

    kind: ClassVar[str] = "claim"

    run_id: str
    client: str
    terms: str
    terms_digest: str
    blocks: tuple[str, ...]
    queries: dict[str, ReservedQuery]


class ReleaseCommitted(Body):
    """What left a client, and the request that it answers, by their SHA-256."""

    kind: ClassVar[str] = "release"

    run_id: str
    client: str
    step: str
    server_round: int
    attempt: int
    request_digest: str
    reply_digest: str


class ClaimClosed(Body):
    """What the claim never released is free again."""

    kind: ClassVar[str] = "close"

    run_id: str
    client: str


class HeadWitnessed(Body):
    """Another ledger's head, as it was shown."""

    kind: ClassVar[str] = "witness"

    name: str
    head: SignedHead


class GapFound(Body):
    """A head of our own that is not in the chain: what was spent in between is not known."""

    kind: ClassVar[str] = "gap"

    head: SignedHead


BODIES: dict[str, type[Body]] = {
    body.kind: body
    for body in (
        LedgerMade,
        DivisionHeld,
        BlocksCreated,
        ClaimReserved,
        ReleaseCommitted,
        ClaimClosed,
        HeadWitnessed,
        GapFound,
    )
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry as it is stored: `text` and `totals` are canonical JSON."""

    position: int
    kind: str
    text: str = field(repr=False)
    totals: str
    made_at: str
    previous: str
    digest: str
    signature: str

    @cached_property
    def body(self) -> Body:
        """What it says.

        Raises:
          KeyError, ValueError: the kind is unknown, or the text is not of its form.
        """
        return BODIES[self.kind].model_validate_json(self.text)

    @property
    def is_intact(self) -> bool:
        """Whether the digest is that of the content."""
        return self.digest == entry_digest(
            position=self.position,
            kind=self.kind,
            text=self.text,
            totals=self.totals,
            made_at=self.made_at,
            previous=self.previous,
        )

    def head(self, ledger: str) -> SignedHead:
        """Returns the head that the entry makes in the chain of `ledger`."""
        return SignedHead(ledger=ledger, position=self.position, digest=self.digest, signature=self.signature)


def entry_digest(*, position: int, kind: str, text: str, totals: str, made_at: str, previous: str) -> str:
    """Returns the SHA-256 of an entry's canonical JSON, whose keys come in alphabetical order."""
    middle = canonical_json({"kind": kind, "made_at": made_at, "position": position, "previous": previous})
    return sha256(f'{{"body":{text},{middle[1:-1]},"totals":{totals}}}'.encode())


def read_head(path: Path) -> SignedHead:
    """Returns the head in a JSON file.

    Raises:
      LedgerError: there is none.
    """
    try:
        return SignedHead.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise LedgerError(f"Expected a ledger's head as JSON in {path}, found none.") from error
