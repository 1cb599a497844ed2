"""A node checks its ledger again and again, though not for every message."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from clients import ledger_checks
from clients.ledger_checks import RECHECK_SECONDS, LedgerChecks
from fedpipe.errors import LedgerError
from fedpipe.ledger import LedgerStore


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(ledger_checks.time, "monotonic", clock)
    return clock


def test_an_edit_is_found_after_some_seconds_however_busy_the_node_is(tmp_path: Path, clock: Clock) -> None:
    checks, store = LedgerChecks(), LedgerStore.at(tmp_path / "ledger.sqlite")
    with checks.open(store):
        pass
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as connection, connection:
        connection.execute("INSERT INTO claims VALUES ('c', 'r', 'a', '{}', 'd', 'open', 1, 'now')")
    clock.now += 0.9 * RECHECK_SECONDS
    with checks.open(store):
        clock.now += RECHECK_SECONDS  # an answer that takes long
    with pytest.raises(LedgerError, match="totals"), checks.open(store):
        pass


def test_every_ledger_is_checked_by_itself(tmp_path: Path, clock: Clock) -> None:
    checks = LedgerChecks()
    for name in ("a", "b"):
        with checks.open(LedgerStore.at(tmp_path / name / "ledger.sqlite")) as ledger:
            assert ledger.verified == ledger.head().digest
