"""Which owners are pooled into one client: decided at their first run, and kept.

A record's budget belongs to the client that holds it. If an owner who was pooled when small had a
client of its own after growing, its records would meet a second budget there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from fedpipe.errors import WorkspaceError
from fedpipe.files import write_text

_POOLED = TypeAdapter(dict[str, bool])


def read_pooling(path: Path) -> dict[str, bool]:
    """Returns, by name, whether an owner is pooled; nothing of owners who never took part.

    Raises:
      WorkspaceError: the file is damaged.
    """
    try:
        return _POOLED.validate_json(path.read_bytes()) if path.exists() else {}
    except ValidationError as error:
        raise WorkspaceError(
            f"Expected which owners are pooled in {path}, found it damaged: restore it, or choose another "
            "--workspace. Their records could meet a second budget."
        ) from error


def hold_pooling(path: Path, found: Mapping[str, bool]) -> None:
    """Makes `path` hold what it held, and `found` of owners who are new, before they take part."""
    held = read_pooling(path)
    now = {**found, **held}
    if now != held:
        write_text(path, _POOLED.dump_json(dict(sorted(now.items()))).decode() + "\n")
