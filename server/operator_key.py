"""The operator's key: made once for a workspace, it signs certificates."""

from __future__ import annotations

from fedpipe.files import write_text
from fedpipe.pipeline import Workspace
from fedpipe.signing import SigningKey, hold_key


def operator_key(workspace: Workspace) -> SigningKey:
    """Returns the workspace's key, with its public half in a file beside it, for handing out.

    Raises:
      LedgerError: the key is damaged, or other users can read it.
    """
    key, public = hold_key(workspace.signing_key_path), workspace.public_key_path
    line = f"{key.public}\n"
    if not public.exists() or public.read_text() != line:
        write_text(public, line)
    return key
