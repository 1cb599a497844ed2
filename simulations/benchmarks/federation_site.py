"""A real federation on this machine, for measurements: an operator, and owners with made-up records.

All processes are those of the command line. Only setting up goes without it: to start an interpreter
for each invitation, enrolment and admission would take longer than what is measured.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients.home import NodeHome
from clients.site_policy import SitePolicy
from fedpipe.ledger import utc_now
from server.federation import members
from server.federation.home import FederationFile, FederationHome
from simulations.benchmarks.processes import Usage, size_of, usage_of
from simulations.benchmarks.scale import make_records, settings

PATIENCE_SECONDS = 900.0
STOP_SECONDS = 60.0
LOOK_SECONDS = 0.1
BLOCK_EPSILON = 1000.0  # many runs
SERVER = "server"
CONFIGURATION = "benchmark.yaml"


@dataclass(frozen=True, kw_only=True)
class Cycle:
    """What one run of a whole cycle came to, and what its process, the coordinator, used."""

    summary: dict[str, Any]
    seconds: float
    processor_seconds: float
    peak_bytes: int


class Site:
    """The operator's directory and the homes of `names` in `folder`, with the processes that run there."""

    def __init__(self, folder: Path, num_nodes: int) -> None:
        self.folder = folder
        self.names = [f"client-{number:05d}" for number in range(num_nodes)]
        self.operator = FederationHome.create(
            folder / "operator",
            FederationFile.model_validate({"name": "benchmark", "address": f"127.0.0.1:{_free_port()}"}),
            utc_now(),
        )
        self.homes = {name: self._enroll(name) for name in self.names}
        for name, records in make_records(num_nodes).groupby("client"):
            records.to_parquet(folder / f"{name}.parquet")
        self._children: list[subprocess.Popen[bytes]] = []
        self._server = 0

    def _enroll(self, name: str) -> NodeHome:
        now = utc_now()
        invitation = members.invite(self.operator, name, valid=dt.timedelta(days=1), now=now)
        policy = SitePolicy.model_validate({"block_epsilon": BLOCK_EPSILON})
        home, request = NodeHome.create(self.folder / name, invitation, store=None, policy=policy)
        members.admit(self.operator, request, now=now)
        return home

    def up(self) -> None:
        """Starts the operator's daemon, and waits until it serves."""
        started = self.start("-m", "fedpipe", "federation", "up", "--dir", self.operator.root)
        self._server = started.pid
        log = self.operator.log_path
        self._wait(lambda: log.exists() and '"message": "Up."' in log.read_text())

    def join(self, at_once: int) -> float:
        """Starts all nodes, so many at a time; returns the seconds until the last is connected."""
        begun = time.perf_counter()
        for first in range(0, len(self.names), at_once):
            group = self.names[first : first + at_once]
            for name in group:
                self.start(
                    *("-m", "fedpipe", "client", "join", "--home", self.homes[name].root),
                    *("--data", self.folder / f"{name}.parquet"),
                )
            self.wait_for_nodes(group)
        return time.perf_counter() - begun

    def join_forked(self) -> float:
        """Starts all nodes from one process that has imported what they need; returns as `join`."""
        begun = time.perf_counter()
        pairs = [f"{self.homes[name].root}={self.folder / f'{name}.parquet'}" for name in self.names]
        self.start("-m", "simulations.benchmarks.forked_nodes", *pairs)
        self.wait_for_nodes(self.names)
        return time.perf_counter() - begun

    def wait_for_nodes(self, names: Sequence[str]) -> None:
        """Waits until `names` say that they are connected."""
        self._wait(lambda: all(self._is_connected(name) for name in names))

    def _is_connected(self, name: str) -> bool:
        status = self.homes[name].status()
        return status is not None and status.state == "connected"

    def cycle(self, *, num_rounds: int, hidden_units: Sequence[int] = (16,), epsilon: float = 1.0) -> Cycle:
        """Runs a full cycle to its end.

        Raises:
          RuntimeError: it failed; the message is what it said.
        """
        asked = settings(hidden_units[0])
        asked["model"]["hidden_units"] = list(hidden_units)
        asked["training"] |= {"num_rounds": num_rounds, "min_cohort": len(self.names)}
        asked["privacy"] = {"epsilon": epsilon}
        path = self.folder / CONFIGURATION
        path.write_text(json.dumps(asked))
        begun = time.perf_counter()
        output = (self.folder / "run.json").open("w+")
        process = self.start(
            *("-m", "fedpipe", "federation", "run", "--dir", self.operator.root, "--config", path),
            *("--fresh", "--quiet", "--json"),
            stdout=output,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"Expected the cycle to succeed, found:\n{self.tails()}")
        output.seek(0)
        return Cycle(
            summary=json.load(output),
            seconds=time.perf_counter() - begun,
            processor_seconds=usage.ru_utime + usage.ru_stime,
            peak_bytes=1024 * usage.ru_maxrss,
        )

    def usages(self) -> dict[str, Usage]:
        """Returns what the server and each node hold and have used, by name."""
        nodes = {name: home.status() for name, home in self.homes.items()}
        pids = {SERVER: self._server} | {name: found.pid for name, found in nodes.items() if found}
        return {name: usage_of(pid) for name, pid in pids.items()}

    def sizes(self) -> dict[str, int]:
        """Returns the bytes on disk, by what they are."""
        state, workspace = self.operator.state_path, self.operator.root / "workspace"
        ledgers = [file for home in self.homes.values() for file in _with_logs(home.ledger_path)]
        return {
            "SuperLink's state": size_of(_with_logs(state)),
            "bundles": size_of([self.operator.bundles]),
            "runs": size_of([workspace / "runs"]),
            "models": size_of([workspace / "models"]),
            "witness": size_of([workspace / "witness.sqlite"]),
            "paper trail": size_of([workspace / "metadata.sqlite"]),
            "a ledger": size_of(ledgers) // len(self.homes),
        }

    def refusals(self) -> list[str]:
        """Returns what server and nodes logged as warnings or worse."""
        logs = [self.operator.log_path, *(home.log_path for home in self.homes.values())]
        lines = [json.loads(line) for log in logs if log.exists() for line in log.read_text().splitlines()]
        return [line["message"] for line in lines if line["level"] not in ("info", "debug")]

    def start(self, *words: str | Path, stdout: Any = None) -> subprocess.Popen[bytes]:
        """Starts a Python with `words`; what it says goes to a file."""
        log = (self.folder / f"{len(self._children)}.log").open("wb")
        child = subprocess.Popen([sys.executable, *words], cwd=self.folder, stdout=stdout or log, stderr=log)
        self._children.append(child)
        return child

    def end(self) -> None:
        """Ends all processes, gently first."""
        for child in self._children:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while any(child.poll() is None for child in self._children) and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        for child in self._children:
            child.kill()

    def tails(self) -> str:
        """Returns the ends of what the processes said."""
        return "\n".join(path.read_text()[-1500:] for path in sorted(self.folder.glob("*.log")))

    def _wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            ended = [child for child in self._children if child.poll() not in (None, 0)]
            if ended or time.monotonic() > deadline:
                raise RuntimeError(f"Expected all processes to start, found:\n{self.tails()}")
            time.sleep(LOOK_SECONDS)


def _with_logs(database: Path) -> list[Path]:
    return [database.with_name(database.name + suffix) for suffix in ("", "-wal", "-shm")]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
