"""The runs that `up` begins by itself: one at a time, each in a process of its own."""

from __future__ import annotations

import datetime as dt
import logging
import os
import subprocess
import sys
from collections.abc import Callable

from fedpipe.files import write_text
from fedpipe.ledger import utc_now
from server.federation.home import FederationHome
from server.federation.schedule import Schedule, is_due, read_schedule

BEGUN = "schedule-begun.txt"
RETRY = dt.timedelta(
    minutes=30
)  # after a run for new spans has failed; one by the calendar waits for its date
STOP_SECONDS = 20.0

logger = logging.getLogger("fedpipe.federation")


class ScheduledRuns:
    """Follows the schedule of `home`, which may change at any time, by `clock`."""

    def __init__(self, home: FederationHome, clock: Callable[[], dt.datetime] = utc_now) -> None:
        self._home, self._clock = home, clock
        self._run: subprocess.Popen[bytes] | None = None
        self._begun: Schedule | None = None
        self._retry: tuple[Schedule | None, dt.datetime] | None = None

    def begin_if_due(self) -> None:
        """Begins a run if one is due and none is under way.

        Raises:
          ConfigError: the schedule cannot be followed.
          OSError: it cannot be noted that the run begins.
        """
        schedule, now = read_schedule(self._home), self._clock()
        if self._run is not None or schedule is None or self._must_wait(schedule, now):
            return
        if is_due(self._home, schedule, now, tried=self._last_begun()):
            self._begin(schedule, now)

    def _must_wait(self, schedule: Schedule, now: dt.datetime) -> bool:
        """Whether `schedule` waits for new spans, and its last run has failed a moment ago."""
        return (
            schedule.cron is None
            and self._retry is not None
            and (self._retry[0] == schedule and now < self._retry[1])
        )

    def _last_begun(self) -> dt.datetime | None:
        """Returns when the last scheduled run was begun, whatever came of it."""
        try:
            return dt.datetime.fromisoformat((self._home.root / BEGUN).read_text().strip())
        except (FileNotFoundError, ValueError):
            return None

    def _begin(self, schedule: Schedule, now: dt.datetime) -> None:
        """Starts a process: what happens to it does not touch the SuperLink."""
        # First: a date that was not noted would begin one run after the other.
        write_text(self._home.root / BEGUN, f"{now.isoformat()}\n")
        overrides = [word for each in schedule.set for word in ("--set", each)]
        words = ["run", "--dir", str(self._home.root), "--config", schedule.config, *overrides, "--quiet"]
        with (self._home.root / "run.log").open("ab") as log:
            self._run = subprocess.Popen(
                [sys.executable, "-m", "fedpipe", "federation", *words],
                cwd=self._home.root,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=os.environ | {"PYTHONSAFEPATH": "1"},
                start_new_session=True,
            )
        self._begun = schedule
        logger.info("A scheduled run begins.", extra={"pid": self._run.pid})

    def watch(self) -> None:
        """Notices that the run has ended."""
        if self._run is None or self._run.poll() is None:
            return
        code, self._run = self._run.returncode, None
        self._retry = None if code == 0 else (self._begun, self._clock() + RETRY)
        level = logging.INFO if code == 0 else logging.ERROR
        logger.log(level, "The scheduled run ended.", extra={"exit_code": code})

    def end(self) -> None:
        """Interrupts the run, which can be resumed."""
        if self._run is None or self._run.poll() is not None:
            return
        self._run.terminate()
        try:
            self._run.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._run.kill()
            self._run.wait()
