"""The operator's key signs certificates: a workspace's own, made once, or a federation's."""

from __future__ import annotations

from pathlib import Path

from fedpipe.files import write_text
from fedpipe.pipeline import Workspace
from fedpipe.signing import SigningKey, hold_key


def operator_key(workspace: Workspace, path: Path | None = None) -> SigningKey:
    """Returns the key in `path`, by default the workspace's; its public half is kept in the workspace.

    Raises:
      LedgerError: the key is damaged, or other users can read it.
    """
    key, public = hold_key(path or workspace.signing_key_path), workspace.public_key_path
    line = f"{key.public}\n"
    if not public.exists() or public.read_text() != line:
        write_text(public, line)
    return key
