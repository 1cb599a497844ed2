"""A node checks its ledger again and again, though not for every message."""

from __future__ import annotations

from pathlib import Path

import pytest

from clients import ledger_checks
from clients.ledger_checks import RECHECK_SECONDS, LedgerChecks
from fedpipe.ledger import LedgerStore


def test_a_check_serves_the_messages_that_follow_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(ledger_checks.time, "monotonic", lambda: now)
    checks, store = LedgerChecks(), LedgerStore.at(tmp_path / "ledger.sqlite")
    assert checks.last(store) is None
    checks.keep(store, "d1")
    assert checks.last(store) == "d1"
    assert checks.last(LedgerStore.at(tmp_path / "other.sqlite")) is None

    now += 0.9 * RECHECK_SECONDS
    checks.keep(store, "d2")
    assert checks.last(store) == "d2"
    now += 0.2 * RECHECK_SECONDS  # however busy it is
    assert checks.last(store) is None
