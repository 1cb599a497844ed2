"""What a data owner's node signs when it accepts a claim: the plan, its records and its code.

A coordinator can then certify no other plan than the one that the owners' ledgers have charged:
it lacks their keys. The statement holds digests and public names only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from fedpipe.files import digest_json
from fedpipe.privacy import PrivacyPlan
from fedpipe.signing import SigningKey, is_signed


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Signature(_Frozen):
    """An Ed25519 signature (RFC 8032) over canonical JSON; key and signature are in base64."""

    public_key: str
    signature: str


class Statement(_Frozen):
    """What a client vouches for. Its claim in its own ledger is named `run_id`/`account`."""

    kind: Literal["fedpipe client attestation"] = "fedpipe client attestation"
    version: Literal[1] = 1
    run_id: str
    client: str
    account: str = Field(description="The name under which the client's ledger knows its records.")
    steps: tuple[str, ...] = Field(description="The steps that the claim pays for.")
    plan_sha256: str
    terms_sha256: str
    commitments: dict[str, str] = Field(description="By span, the HMAC-SHA-256 of its records.")
    code_sha256: str = Field(description="Digest of the code that answers.")


class Attestation(_Frozen):
    """A statement with the signature of the client that makes it."""

    statement: Statement
    signature: Signature

    @property
    def is_genuine(self) -> bool:
        """Whether the key that comes with the statement signed it; whose that is, is another question."""
        content = self.statement.model_dump(mode="json")
        return is_signed(content, signature=self.signature.signature, public=self.signature.public_key)


def attest(statement: Statement, key: SigningKey) -> Attestation:
    """Returns `statement` signed with `key`."""
    signature = key.sign(statement.model_dump(mode="json"))
    return Attestation(statement=statement, signature=Signature(public_key=key.public, signature=signature))


def plan_digest(plan: PrivacyPlan) -> str:
    """Returns the SHA-256 of the canonical JSON of `plan`."""
    return digest_json(plan.model_dump(mode="json"))


def differing_fields(found: Statement, expected: Statement, *, ignored: Sequence[str] = ()) -> list[str]:
    """Returns the names of the fields in which two statements differ, `ignored` ones left out."""
    return [
        name
        for name in Statement.model_fields
        if name not in ignored and getattr(found, name) != getattr(expected, name)
    ]
