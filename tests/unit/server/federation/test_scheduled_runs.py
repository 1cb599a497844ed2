"""Runs that a federation begins by itself, with real processes: each fails, as the federation is down."""

import datetime as dt
import errno
import os
from pathlib import Path

import pytest

from fedpipe import files
from server.federation.home import FederationHome
from server.federation.schedule import make_schedule, write_schedule
from server.federation.scheduled_runs import RETRY, ScheduledRuns
from tests.unit.federation.superlink import wait_until

MONDAY = dt.datetime(2026, 5, 4, 3, tzinfo=dt.timezone.utc)
MINUTE, WEEK = dt.timedelta(minutes=1), dt.timedelta(weeks=1)


class Clock:
    """Shows what it is set to."""

    def __init__(self, now: dt.datetime) -> None:
        self.now = now

    def __call__(self) -> dt.datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock(MONDAY + MINUTE)


def keep_schedule(home: FederationHome, *, cron: str | None = None, new_spans: int | None = None) -> None:
    since = MONDAY - dt.timedelta(days=1)
    write_schedule(home, make_schedule(config="breast_cancer", cron=cron, new_spans=new_spans, since=since))


def ends_of(runs: ScheduledRuns, caplog: pytest.LogCaptureFixture) -> list[int]:
    """Looks whether a run is due, waits for its end, and returns the exit codes of all runs so far."""

    def codes() -> list[int]:
        return [vars(each)["exit_code"] for each in caplog.records if hasattr(each, "exit_code")]

    def has_ended() -> bool:
        runs.watch()
        return len(codes()) == caplog.messages.count("A scheduled run begins.")

    runs.begin_if_due()
    wait_until(has_ended)
    return codes()


@pytest.fixture(autouse=True)
def _told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "fedpipe.federation")


def test_a_run_that_fails_before_it_begins_waits_for_the_next_date(
    home: FederationHome, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    keep_schedule(home, cron="0 3 * * 1")
    runs = ScheduledRuns(home, clock)

    assert ends_of(runs, caplog) == [2]
    assert "fedpipe federation up" in (home.root / "run.log").read_text()
    clock.now += MINUTE
    assert ends_of(runs, caplog) == [2]
    assert ends_of(ScheduledRuns(home, clock), caplog) == [2]  # nor after a restart
    clock.now += WEEK
    assert ends_of(runs, caplog) == [2, 2]


def test_a_run_for_new_spans_that_failed_is_begun_again_half_an_hour_later(
    home: FederationHome, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    keep_schedule(home, new_spans=1)
    runs = ScheduledRuns(home, clock)

    assert ends_of(runs, caplog) == [2]
    clock.now += RETRY - MINUTE
    assert ends_of(runs, caplog) == [2]
    clock.now += MINUTE
    assert ends_of(runs, caplog) == [2, 2]


def test_another_schedule_does_not_wait_for_the_failure_of_the_one_before(
    home: FederationHome, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    keep_schedule(home, cron="0 3 * * 1")
    runs = ScheduledRuns(home, clock)
    assert ends_of(runs, caplog) == [2]

    keep_schedule(home, new_spans=1)
    assert ends_of(runs, caplog) == [2, 2]


def test_one_run_is_begun_at_a_time(
    home: FederationHome, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    keep_schedule(home, cron="* * * * *")
    runs = ScheduledRuns(home, clock)
    runs.begin_if_due()
    clock.now += MINUTE
    runs.begin_if_due()
    runs.end()

    assert caplog.messages == ["A scheduled run begins."]


def test_no_run_outlives_the_daemon_that_is_stopped(
    home: FederationHome, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    keep_schedule(home, cron="* * * * *")
    runs = ScheduledRuns(home, clock)
    runs.begin_if_due()
    pid = vars(caplog.records[0])["pid"]
    runs.end()

    assert not Path(f"/proc/{pid}").exists()


def test_no_run_is_begun_that_cannot_be_noted(
    home: FederationHome, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_up(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    keep_schedule(home, cron="* * * * *")
    home.workspace()
    monkeypatch.setattr(files.os, "fsync", fill_up)
    with pytest.raises(OSError, match="No space left"):
        ScheduledRuns(home, clock).begin_if_due()

    assert not (home.root / "run.log").exists()
