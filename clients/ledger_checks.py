"""How far this process has checked which ledger: the checks of one message serve those that follow at once.

A check reads the whole ledger's totals. In a simulation all clients share one ledger, and a check for
every message would make a run's cost grow with the square of their number.
"""

from __future__ import annotations

import time

from fedpipe.ledger import LedgerStore

RECHECK_SECONDS = 5.0


class LedgerChecks:
    """Remembers, by ledger, the newest entry that was checked or made here, for RECHECK_SECONDS."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, float]] = {}

    def last(self, store: LedgerStore) -> str | None:
        """Returns the digest of that entry, or None if the ledger is to be checked again."""
        known = self._known.get(str(store))
        return known[0] if known and time.monotonic() - known[1] < RECHECK_SECONDS else None

    def keep(self, store: LedgerStore, digest: str) -> None:
        """Notes that the ledger has been in use up to the entry with `digest`."""
        now, known = time.monotonic(), self._known.get(str(store))
        checked = known[1] if known and now - known[1] < RECHECK_SECONDS else now
        self._known[str(store)] = (digest, checked)
