"""How far this process has checked which ledger: the checks of one message serve those that follow at once.

A check reads the whole ledger's totals. In a simulation all clients share one ledger, and a check for
every message would make a run's cost grow with the square of their number.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from fedpipe.ledger import Ledger, LedgerStore

RECHECK_SECONDS = 5.0


class LedgerChecks:
    """Remembers, by ledger, the newest entry that was checked or made here, and the time of the check."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, float]] = {}

    @contextmanager
    def open(self, store: LedgerStore) -> Iterator[Ledger]:
        """Opens the ledger, and checks it unless that was done within RECHECK_SECONDS.

        Raises:
          LedgerError: as `Ledger`.
        """
        now, (digest, checked) = time.monotonic(), self._known.get(str(store), (None, 0.0))
        if digest is None or now - checked >= RECHECK_SECONDS:
            digest, checked = None, now
        with Ledger(store, verified=digest) as ledger:
            yield ledger
            # However long the block took: it has checked nothing.
            self._known[str(store)] = (ledger.verified, checked)
