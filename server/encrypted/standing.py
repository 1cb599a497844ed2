"""Which version may be served now: the registry and the ledger decide, each time anew."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock

from fedpipe.errors import ConfigError, EncryptedError
from fedpipe.files import digest_json, write_text
from fedpipe.ledger import Ledger
from fedpipe.pipeline import Workspace
from server.artifacts import ModelVersion
from server.paper_trail import find_model

_FILE = "revoked-models.json"
# Between a certificate's epsilon and the same computed again.
_TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A version that may be served."""

    name: str
    version: int
    certificate: str
    privacy: str
    input_width: int
    model_type: str


def served_version(root: Path, name: str, version: int | None) -> Standing:
    """Returns the version to serve: the one that is named, or else the newest.

    Raises:
      ConfigError: it is not registered.
      EncryptedError: it was revoked, or costs more than was promised or budgeted.
    """
    found = find_model(root, name if version is None else f"{name}:{version}")
    reason = revocation(root, found.name, found.version)
    if reason is not None:
        raise EncryptedError(f"Expected {name}:{found.version} to be in force, found it revoked: {reason}")
    _check_budget(root, found)
    return Standing(
        name=found.name,
        version=found.version,
        certificate=digest_json(found.certificate.model_dump(mode="json")),
        privacy=found.privacy.status,
        input_width=found.definition.num_features,
        model_type=found.definition.settings.type,
    )


def revoke(root: Path, reference: str, reason: str) -> ModelVersion:
    """Revokes a version for ever; a running service stops answering with it.

    Raises:
      ConfigError: there is none, or no reason.
    """
    if not reason.strip():
        raise ConfigError("Expected a reason: give --reason.")
    found = find_model(root, reference)
    entry = {
        "model": found.name,
        "version": found.version,
        "reason": reason,
        "revoked_at": datetime.now(timezone.utc).isoformat(),
    }
    path = Workspace.open_existing(root).root / _FILE
    with FileLock(path.with_suffix(".lock"), mode=0o600):  # or one of two revocations could be lost
        write_text(path, json.dumps([*_revocations(path), entry], indent=2) + "\n")
    return found


def revocation(root: Path, name: str, version: int) -> str | None:
    """Returns why a version was revoked, or None."""
    for entry in _revocations(root / _FILE):
        if (entry.get("model"), entry.get("version")) == (name, version):
            return str(entry.get("reason"))
    return None


def _revocations(path: Path) -> list[dict[str, object]]:
    try:
        found: list[dict[str, object]] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        # Fail closed: nobody can tell what was revoked.
        raise EncryptedError(f"Expected a readable {path}, found it damaged: restore it.") from error
    return found


def _check_budget(root: Path, version: ModelVersion) -> None:
    """Raises EncryptedError if the certificate's events cost more than it says, or a block holds too much."""
    reference = f"{version.name}:{version.version}"
    stated, found = version.privacy.epsilon, version.certificate.recompute_epsilon()
    if stated is not None and (found is None or found > stated + _TOLERANCE):
        raise EncryptedError(
            f"Expected {reference} to cost epsilon {stated:.4g}, found more: do not serve it."
        )
    ledger_path = Workspace.open_existing(root).ledger_path
    if not ledger_path.exists():
        return  # its clients keep ledgers of their own, and refuse what is too much
    with Ledger(ledger_path) as ledger:
        over = [
            spending for spending in ledger.spending() if spending.held > spending.budget * (1 + _TOLERANCE)
        ]
    if over:
        raise EncryptedError(
            f"Expected the blocks behind {reference} within their budgets, found {len(over)} over: "
            "see 'fedpipe budget'."
        )
