"""A whole encrypted prediction service, trained and started as people do it, and what its processes hold."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpipe.encrypted.client import EncryptedClient
from fedpipe.encrypted.rows import encode_cells, row_place
from server.encrypted.process import read_state, state_path
from simulations.benchmarks.encrypted_problems import Problem

PROCESSES = ("party0", "party1", "party2", "coordinator")
_START_SECONDS = 1800.0
_STOP_SECONDS = 120.0
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Running:
    """A service on this machine, and the records that it is asked about.

    Attributes:
      inputs: the records as model inputs, (n, num_features).
      served: probabilities of the served model in the clear, (n, classes).
    """

    url: str
    pid: int
    workspace: Path
    inputs: NDArray[np.float32]
    served: Floats

    def state(self) -> dict[str, Any]:
        """Returns what `fedpipe encrypted status` shows."""
        state = read_state(state_path(self.workspace))
        if state is None:
            raise RuntimeError("Expected a running service, found it ended.")
        return state

    def resident_mebibytes(self) -> dict[str, list[int]]:
        """Returns what each process holds: of two committees while one follows the other."""
        found: dict[str, list[int]] = {name: [] for name in ("front end", *PROCESSES)}
        found["front end"].append(_resident(self.pid))
        for pid, name in descendants(self.pid):
            if name in found:
                found[name].append(_resident(pid))
        return found

    def committee(self) -> tuple[int, ...]:
        """Returns the processes of the parties, oldest first."""
        return tuple(sorted(pid for pid, name in descendants(self.pid) if name.startswith("party")))


@contextmanager
def run_service(problem: Problem, folder: Path, *words: str) -> Iterator[Running]:
    """Trains, starts the service with more `words` of `up`, and ends it."""
    workspace = folder / "w"
    options = ("--workspace", str(workspace))
    if not (workspace / "models" / problem.model).exists():
        subprocess.run(
            [sys.executable, "-m", "fedpipe.simulate", "--quiet", *options, *problem.words],
            cwd=folder,
            check=True,
        )
    command = [sys.executable, "-m", "fedpipe", "encrypted", "up", "--model", problem.model, "--port", "0"]
    process = subprocess.Popen(
        [*command, *options, "--operator-sees-rows", *words], cwd=folder, stdout=subprocess.DEVNULL
    )
    try:
        url = _wait(process, workspace)
        yield Running(url=url, pid=process.pid, workspace=workspace, **_answers(url, workspace, problem))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(_STOP_SECONDS)


def _wait(process: subprocess.Popen[bytes], workspace: Path) -> str:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        state = read_state(state_path(workspace)) or {}
        if state.get("state") == "active":
            return str(state["url"])
        time.sleep(0.2)
    raise RuntimeError("Expected the service to become active, found that it did not.")


def _answers(url: str, workspace: Path, problem: Problem) -> dict[str, Any]:
    """Returns model inputs of the records, and what the SavedModel makes of them."""
    from fedpipe.learning.serving import load_signature, predict_frame

    with EncryptedClient(url) as client:
        transform = client.card.transform
    records = problem.records[list(transform.columns)].fillna("").astype(str).astype(object)
    inputs = encode_cells(transform, {name: records[name].tolist() for name in records}, row_place)
    version = max((workspace / "models" / problem.model).iterdir())
    served = predict_frame(load_signature(version), records, list(records), batch_size=512)
    if served.ndim == 1:
        served = np.stack([1 - served, served], axis=1)
    return {"inputs": inputs, "served": served}


def descendants(ancestor: int) -> list[tuple[int, str]]:
    """Returns the processes that descend from one, with their names, oldest first; proc(5)."""
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (path / "stat").read_text().partition(" (")[2].rpartition(") ")
        except OSError:  # it ended meanwhile
            continue
        parents[int(path.name)], names[int(path.name)] = int(rest.split()[1]), name
    found, new = set[int](), {ancestor}
    while new:
        found |= new
        new = {pid for pid, parent in parents.items() if parent in found} - found
    return sorted((pid, names[pid]) for pid in found - {ancestor} if pid in names)


def _resident(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) >> 10 for line in lines if line.startswith("VmRSS")), 0)
