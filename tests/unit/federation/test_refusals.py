from __future__ import annotations

import logging

import pytest

from fedpipe.federation import refusals
from fedpipe.federation.refusals import Refusals


def test_a_flood_is_counted_whole_and_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now, counted = 0.0, []
    told = Refusals(counted.append, clock=lambda: now)
    for port in range(1000):
        told.tell("unknown key", f"192.0.2.1:{port}", "unauthenticated")
    assert len(caplog.records) == 1
    now = 61.0
    told.tell("unknown key", "192.0.2.1:5", "unauthenticated")

    assert counted == ["unauthenticated"] * 1001
    assert [vars(each).get("unsaid") for each in caplog.records] == [None, 999]


def test_another_address_and_another_reason_have_lines_of_their_own(caplog: pytest.LogCaptureFixture) -> None:
    told = Refusals(lambda kind: None, clock=lambda: 0.0)
    for host in ("192.0.2.1", "192.0.2.2"):
        for reason in ("unknown key", "too slow"):
            told.tell(reason, f"{host}:1")

    assert len(caplog.records) == 4


def test_more_addresses_than_can_be_remembered_fill_no_disk(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "MAX_REMEMBERED", 10)
    caplog.set_level(logging.WARNING)
    told = Refusals(lambda kind: None, clock=lambda: 0.0)
    for number in range(100):
        told.tell("unknown key", f"198.51.100.{number}:1")

    assert len(caplog.records) == 10
