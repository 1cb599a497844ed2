"""Whether a certificate holds: its arithmetic, its signatures, and whether its parts agree with each other.

Trust begins with keys that the reader knows from elsewhere (`Anchors`). A forger without the operator's key
cannot sign; one who has it cannot speak for the clients, whose attestations name the plan that was charged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedpipe.errors import LedgerError
from fedpipe.ledger.certificate import Certificate, block_epsilon
from fedpipe.ledger.certificate_checks import attestation_differences, content_differences
from fedpipe.provenance import code_digest
from fedpipe.signing import is_signed

MAX_BYTES = 64 << 20
COORDINATOR, CLIENT = "server.coordinator", "clients.handlers"
_REMEDY = "get the file again from whoever issued it."


@dataclass(frozen=True, kw_only=True)
class Anchors:
    """Public keys that the reader trusts: of operators, and of clients by name. `origin` says whence."""

    operators: frozenset[str] = frozenset()
    clients: Mapping[str, str] = field(default_factory=dict)
    origin: str = ""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was found. Epsilons are by split; `recomputed` follows from the listed events."""

    certificate: Certificate
    recomputed: Mapping[str, float]
    differences: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def verified(self) -> bool:
        """Whether nothing differs."""
        return not self.differences

    def to_json(self) -> dict[str, Any]:
        """Returns the outcome as JSON can hold it."""
        certificate = self.certificate
        return {
            "verified": self.verified,
            "run_id": certificate.run_id,
            "model": f"{certificate.model}:{certificate.model_version}",
            "status": certificate.privacy.status,
            "epsilon": certificate.privacy.epsilon,
            "recomputed_epsilon": max(self.recomputed.values(), default=None),
            "recomputed_by_split": dict(self.recomputed),
            "delta": certificate.privacy.delta,
            "signed_by": certificate.signature.public_key if certificate.signature else None,
            "attested_by": sorted({each.statement.client for each in certificate.attestations}),
            "differences": list(self.differences),
            "notes": list(self.notes),
        }


def verify_certificate(path: Path, anchors: Anchors, *, check_code: bool = False) -> Verification:
    """Returns what holds of the certificate in `path` and what differs, each by name.

    Args:
      path: a JSON file that may come from anybody.
      anchors: keys to compare signers with. Without an operator's key nothing is verified.
      check_code: whether code other than that of this installation is a difference, not a note.

    Raises:
      LedgerError: the file cannot be read, or is no certificate of this version.
    """
    raw = _read(path)
    certificate = _parse(raw)
    recomputed = dict(_recomputed(certificate))
    other_code = tuple(_other_code(certificate))
    differences = [
        *_signature_differences(raw, certificate, anchors),
        *content_differences(certificate, recomputed),
        *attestation_differences(certificate, anchors.clients),
        *(other_code if check_code else ()),
    ]
    notes = [*_notes(certificate, anchors), *(() if check_code else other_code)]
    return Verification(
        certificate=certificate,
        recomputed=recomputed,
        differences=tuple(map(_one_line, differences)),
        notes=tuple(map(_one_line, notes)),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise LedgerError(f"Expected a certificate in {path}, found: {error.strerror}.") from error
    if len(data) > MAX_BYTES:
        raise LedgerError(f"Expected at most {MAX_BYTES >> 20} MiB in {path}, found more: {_REMEDY}")
    try:
        raw = json.loads(data, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise LedgerError(f"Expected JSON in {path}, found something else or damage: {_REMEDY}") from error
    if not isinstance(raw, dict) or raw.get("format") != Certificate.model_fields["format"].default:
        raise LedgerError(f"Expected a privacy certificate of fedpipe in {path}, found another file.")
    return raw


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError  # readers would disagree about which of two values counts
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _parse(raw: dict[str, Any]) -> Certificate:
    wanted = Certificate.model_fields["version"].default
    if raw.get("version") != wanted:
        raise LedgerError(
            f"Expected a certificate of version {wanted}, found {_one_line(repr(raw.get('version')))}: use "
            "the fedpipe that issued it, or recompute its epsilon with the script in docs/certificate.md."
        )
    try:
        return Certificate.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise LedgerError(
            _one_line(f"Expected a complete certificate, found {place or 'it'}: {first['msg']}; {_REMEDY}")
        ) from error
    except RecursionError as error:
        raise LedgerError(f"Expected a certificate, found one nested too deeply: {_REMEDY}") from error


def _recomputed(certificate: Certificate) -> Iterator[tuple[str, float]]:
    delta = certificate.privacy.delta
    if delta is not None:
        for block in certificate.blocks:
            yield block.split, block_epsilon(block, delta)


def _signature_differences(
    raw: Mapping[str, Any], certificate: Certificate, anchors: Anchors
) -> Iterator[str]:
    signature = certificate.signature
    if signature is None:
        yield "signature: there is none"
        return
    content = {name: value for name, value in raw.items() if name != "signature"}
    if not is_signed(content, signature=signature.signature, public=signature.public_key):
        yield "signature: it does not fit the content, which was changed after it was signed"
    if not anchors.operators:
        yield (
            f"signer: unknown; {signature.public_key} signed, and may be anybody's: give --key with the "
            "public key that the operator handed out (signing.pub of the workspace)"
        )
    elif signature.public_key not in anchors.operators:
        trusted = ", ".join(sorted(anchors.operators))
        yield f"signer: {signature.public_key} signed, somebody else's key than you trust ({trusted})"


def _other_code(certificate: Certificate) -> Iterator[str]:
    """Returns whose code is not what is installed here."""
    code = certificate.code
    if code.coordinator != code_digest(COORDINATOR):
        yield "code: the coordinator's is not what is installed here"
    installed = code_digest(CLIENT)
    others = sorted(client for client, digest in code.clients.items() if digest != installed)
    if others:
        yield f"code: that of {_some(others)} is not what is installed here"


def _notes(certificate: Certificate, anchors: Anchors) -> Iterator[str]:
    unpinned = {each.client for each in certificate.commitments} - anchors.clients.keys()
    if unpinned:
        yield (
            f"the keys of {len(unpinned)} clients were taken from the certificate: give --client-key "
            "NAME=PUBLIC to compare them with what the clients handed out"
        )
    if certificate.privacy.status != "private":
        yield "NOT PRIVATE: the certificate promises nothing"
    elif certificate.plan.randomness != "secure":
        yield "seeded randomness: the noise can be repeated and protects nobody"


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _one_line(text: str, most: int = 500) -> str:
    """Returns `text` without what could move a terminal's cursor: names in it may come from a forger."""
    shown = "".join(each if each.isprintable() else "?" for each in text)
    return shown if len(shown) <= most else f"{shown[:most]}..."
