"""Where a served version comes from, as headers of its answers: for models of a workspace."""

from __future__ import annotations

import logging
from pathlib import Path

from fedpipe.errors import FedpipeError
from fedpipe.files import digest_json
from server.paper_trail import find_model

logger = logging.getLogger("fedpipe.serve")


def workspace_headers(root: Path, name: str, version: int) -> tuple[tuple[str, str], ...]:
    """Returns name and version, privacy status and the SHA-256 of the certificate's canonical JSON.

    A version that the workspace has not registered is served all the same, and says so.
    """
    reference = f"{name}:{version}"
    try:
        found = find_model(root, reference)
    except FedpipeError:
        logger.warning("%s is in no registry: its privacy is unknown.", reference)
        return (("x-fedpipe-model", reference), ("x-fedpipe-privacy", "unknown"))
    if found.privacy.status != "private":
        logger.warning("%s is NOT PRIVATE: it was trained without noise, or with seeded noise.", reference)
    digest = digest_json(found.certificate.model_dump(mode="json"))
    return (
        ("x-fedpipe-model", reference),
        ("x-fedpipe-privacy", found.privacy.status),
        ("x-fedpipe-certificate", f"sha256:{digest}"),
    )
