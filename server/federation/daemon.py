"""`fedpipe federation up`: the SuperLink, the list of members, and the schedule, in one process."""

from __future__ import annotations

import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING

from fedpipe.errors import FedpipeError
from fedpipe.federation.logs import log_to
from fedpipe.federation.monitoring import monitored
from fedpipe.ledger import utc_now
from server.federation.home import FederationHome
from server.federation.members import MEMBERS, read_members
from server.federation.metrics import FederationMetrics
from server.federation.schedule import Schedule, is_due, read_schedule

if TYPE_CHECKING:
    from fedpipe.federation.flower_superlink import SuperLink

TICK_SECONDS = 2.0
SCHEDULE_SECONDS = 20.0
RENEW_SECONDS = 3600.0
FORGET_SECONDS = 60.0
STOP_SECONDS = 20.0
STALLED_SECONDS = 120.0
RETRY_SECONDS = 1800.0  # after a run for new spans has failed; one by the calendar waits for its next date

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
        self._child: subprocess.Popen[bytes] | None = None
        self._retry_at = 0.0
        self._looked = time.monotonic()
        self.is_ready = False

    def is_healthy(self) -> bool:
        """Whether the loop still turns."""
        return time.monotonic() - self._looked < STALLED_SECONDS

    def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self._follow_members()
        self._superlink.start()
        self.is_ready = True
        logger.info("Up.", extra={"federation": self._home.settings.name, "address": self._address})
        pauses = {
            self._follow_schedule: SCHEDULE_SECONDS,
            self._follow_certificate: RENEW_SECONDS,
            self._forget: FORGET_SECONDS,
        }
        due = dict(pauses) | {self._follow_schedule: 0.0}
        begun = time.monotonic()
        try:
            while not self._stopping.wait(TICK_SECONDS):
                self._looked = time.monotonic()
                self._follow_members()
                self._watch_child()
                now = self._looked - begun
                for task in [each for each, at in due.items() if at <= now]:
                    due[task] = now + pauses[task]
                    task()
        finally:
            self.is_ready = False
            self._end_child()
            self._superlink.stop()
            logger.info("Down.")

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping.set()

    def _follow_members(self) -> None:
        """Registers the keys of new members, and strikes off those of removed ones."""
        path = self._home.root / MEMBERS
        stamp = path.stat().st_mtime_ns if path.exists() else -1
        if stamp == self._members_stamp:
            return
        try:
            present = read_members(self._home).present()
            new, gone = self._superlink.register(
                {name: member.public_key for name, member in present.items()}
            )
        except FedpipeError as error:
            logger.error("%s", error)
            return
        self._members_stamp = stamp
        logger.info("Members: %d.", len(present), extra={"new": new, "struck_off": gone})

    def _follow_certificate(self) -> None:
        try:
            _renew(self._home)
        except FedpipeError as error:
            logger.error("The certificate cannot be renewed: %s", error)

    def _forget(self) -> None:
        try:
            self._superlink.forget_old(utc_now())
        except FedpipeError as error:
            logger.error("%s", error)

    def _follow_schedule(self) -> None:
        if self._child is not None:
            return
        try:
            schedule = read_schedule(self._home)
            if schedule is None or (schedule.cron is None and time.monotonic() < self._retry_at):
                return
            if is_due(self._home, schedule, utc_now()):
                self._begin(schedule)
        except FedpipeError as error:
            logger.error("The schedule cannot be followed: %s", error)

    def _begin(self, schedule: Schedule) -> None:
        """Starts a run in a process of its own: what happens to it does not touch the SuperLink."""
        overrides = [word for each in schedule.set for word in ("--set", each)]
        words = ["run", "--dir", str(self._home.root), "--config", schedule.config, *overrides, "--quiet"]
        self._child = subprocess.Popen(
            [sys.executable, "-m", "fedpipe", "federation", *words],
            cwd=self._home.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self._home.root / "run.log").open("ab"),
            env=os.environ | {"PYTHONSAFEPATH": "1"},
            start_new_session=True,
        )
        logger.info("A scheduled run begins.", extra={"pid": self._child.pid})

    def _watch_child(self) -> None:
        if self._child is None or self._child.poll() is None:
            return
        code, self._child = self._child.returncode, None
        self._retry_at = 0.0 if code == 0 else time.monotonic() + RETRY_SECONDS
        level = logging.INFO if code == 0 else logging.ERROR
        logger.log(level, "The scheduled run ended.", extra={"exit_code": code})

    def _end_child(self) -> None:
        if self._child is None or self._child.poll() is not None:
            return
        self._child.terminate()
        try:
            self._child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
