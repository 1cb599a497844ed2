"""Where the key lies with which a ledger's owner signs: its heads, and what she says of its claims."""

from __future__ import annotations

from pathlib import Path


def ledger_key_path(store: Path) -> Path:
    """Returns the file of the key that belongs to the ledger in `store`: beside it.

    >>> ledger_key_path(Path("/data/ledger.sqlite")).name
    'ledger.sqlite.key'
    """
    return store.with_suffix(store.suffix + ".key")
