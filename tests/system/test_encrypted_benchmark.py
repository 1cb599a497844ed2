"""The benchmark of encrypted prediction ends what it starts."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from fedpipe.encrypted import provisioning
from fedpipe.encrypted.dense import evaluate
from simulations.benchmarks import encrypted
from simulations.benchmarks.encrypted_running import descendants

pytestmark = pytest.mark.slow


def is_running(pid: int) -> bool:
    """Returns whether a process is there and does something; proc(5)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def test_stock_contestant_leaves_no_process_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provisioning.install(provisioning.default_home(), print)
    monkeypatch.setattr(encrypted, "BATCHES", (1,))
    part = encrypted.make_mlp(np.random.default_rng(0))
    rows = np.ones((1, encrypted.WIDTHS[0]))
    python = provisioning.find_environment(provisioning.default_home())
    before = {pid for pid, _ in descendants(os.getpid())}
    with encrypted.stock(python, part, tmp_path) as ask:
        np.testing.assert_allclose(ask(rows), evaluate(part, rows), atol=1e-3)
        started = {pid for pid, _ in descendants(os.getpid())} - before
    assert len(started) >= 4  # itself and three servers
    deadline = time.monotonic() + 30
    while left := [pid for pid in started if is_running(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
