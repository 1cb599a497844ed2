"""`fedpipe federation up`: the SuperLink, the list of members, and the schedule, in one process."""

from __future__ import annotations

import logging
import os
import resource
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from fedpipe.errors import FedpipeError
from fedpipe.federation.logs import log_to
from fedpipe.federation.monitoring import monitored
from fedpipe.ledger import utc_now
from server.federation.home import FederationHome
from server.federation.members import MEMBERS, read_members
from server.federation.metrics import FederationMetrics
from server.federation.scheduled_runs import ScheduledRuns

if TYPE_CHECKING:
    from fedpipe.federation.flower_superlink import SuperLink

TICK_SECONDS = 2.0
SCHEDULE_SECONDS = 20.0
RENEW_SECONDS = 3600.0
FORGET_SECONDS = 60.0
STALLED_SECONDS = 120.0

logger = logging.getLogger("fedpipe.federation")


def serve(home: FederationHome, *, metrics: str = "") -> None:
    """Serves until SIGTERM or an interrupt; with `metrics`, a loopback address, figures and health as well.

    Raises:
      ConfigError: an address is taken, or that of `metrics` is not on loopback.
      WorkspaceError: it is up already.
    """
    from fedpipe.federation.flower_superlink import Addresses, Limits, SuperLink

    os.umask(0o077)  # Flower makes files and sockets as everybody's
    _allow_many_files()
    with home.up_lock():
        log_to(home.log_path)
        settings = home.settings
        _renew(home)
        host, port = settings.listen_address
        _clear_sockets(home)
        figures = FederationMetrics(home)
        superlink = SuperLink(
            database=home.state_path,
            bundles=home.bundles,
            certificates=lambda: home.certificates,
            addresses=Addresses(
                fleet=(host, port),
                inner=home.socket("fleet"),
                control=home.socket("control"),
                serverappio=home.socket("serverappio"),
            ),
            limits=Limits(
                max_message_bytes=settings.max_message_bytes,
                max_calls_per_second=settings.max_calls_per_second,
            ),
            on_refusal=figures.on_refusal,
        )
        figures.watch(superlink.num_online)
        daemon = _Daemon(home, superlink, f"{host}:{port}")
        with monitored(
            metrics,
            figures.collectors,
            is_healthy=daemon.is_healthy,
            is_ready=lambda: daemon.is_ready and daemon.is_healthy(),
        ):
            daemon.run()


def _allow_many_files() -> None:
    """Raises this process's bound on open files: a connection takes three."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _renew(home: FederationHome) -> None:
    if home.renew_certificate(utc_now()):
        logger.info("Issued a server certificate.")


def _clear_sockets(home: FederationHome) -> None:
    """Removes what a killed process left: nobody else is up, or the lock would be held."""
    for path in home.root.glob("*.sock"):
        path.unlink()


class _Daemon:
    def __init__(self, home: FederationHome, superlink: SuperLink, address: str) -> None:
        self._home, self._superlink, self._address = home, superlink, address
        self._stopping = threading.Event()
        self._members_stamp = 0
        self._runs = ScheduledRuns(home)
        self._told: dict[str, str] = {}
        self._looked = time.monotonic()
        self.is_ready = False

    def is_healthy(self) -> bool:
        """Whether the loop still turns."""
        return time.monotonic() - self._looked < STALLED_SECONDS

    def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self._attempt("members", self._follow_members)
        self._superlink.start()
        self.is_ready = True
        logger.info("Up.", extra={"federation": self._home.settings.name, "address": self._address})
        try:
            self._loop()
        finally:
            self.is_ready = False
            self._runs.end()
            self._superlink.stop()
            logger.info("Down.")

    def _loop(self) -> None:
        tasks: dict[str, tuple[float, Callable[[], None]]] = {
            "members": (TICK_SECONDS, self._follow_members),
            "scheduled run": (TICK_SECONDS, self._runs.watch),
            "schedule": (SCHEDULE_SECONDS, self._runs.begin_if_due),
            "certificate": (RENEW_SECONDS, lambda: _renew(self._home)),
            "state": (FORGET_SECONDS, lambda: self._superlink.forget_old(utc_now())),
        }
        late = ("certificate", "state")  # the others have their first turn at once
        due = {name: self._looked + tasks[name][0] * (name in late) for name in tasks}
        while not self._stopping.wait(TICK_SECONDS):
            self._looked = time.monotonic()
            for name in [each for each, at in due.items() if at <= self._looked]:
                pause, task = tasks[name]
                due[name] = self._looked + pause
                self._attempt(name, task)

    def _attempt(self, name: str, task: Callable[[], None]) -> None:
        """Does `task`. What it fails at, such as a full disk, ends no daemon, and is told once."""
        try:
            task()
        except (FedpipeError, OSError, sqlite3.Error) as error:
            reason = str(error.strerror if isinstance(error, OSError) else error)
            if self._told.get(name) != reason:
                logger.error("The %s cannot be followed, and will be tried again: %s", name, reason)
            self._told[name] = reason
        else:
            self._told.pop(name, None)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping.set()

    def _follow_members(self) -> None:
        """Registers the keys of new members, and strikes off those of removed ones."""
        path = self._home.root / MEMBERS
        stamp = path.stat().st_mtime_ns if path.exists() else -1
        if stamp == self._members_stamp:
            return
        present = read_members(self._home).present()
        new, gone = self._superlink.register({name: member.public_key for name, member in present.items()})
        self._members_stamp = stamp
        logger.info("Members: %d.", len(present), extra={"new": new, "struck_off": gone})
