"""The engine on Ray beside the embedded one: the same bits, the same ledger, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow

# Sums of this size come out otherwise with other numbers of threads.
SETTINGS = (
    *("--set", "data.limit=3000", "--set", "training.num_rounds=6", "--set", "federation.num_actors=2"),
    *("--set", "privacy.randomness=seeded", "--quiet", "--json"),
)
GROUP = "import os, sys; os.setsid(); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
CHANGING = {"created_at", "committed_at", "claim", "run_id"}


@dataclass(frozen=True, kw_only=True)
class Runs:
    """A run on each engine, and one that began on Ray, was killed, interrupted, and ended in process."""

    embedded: dict[str, Any]
    on_ray: Any
    killed: Any
    left_by_kill: set[int]
    interrupted: Any
    left_by_interrupt: set[int]
    resumed: dict[str, Any]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, shell: Any) -> Runs:
    folder = tmp_path_factory.mktemp("engines")
    place = folder / "disturbed"
    words = ("-m", "fedpipe.simulate", "--workspace", str(place))

    def cut_short(server_round: int, number: signal.Signals, *more: str) -> tuple[Any, set[int]]:
        process = shell.launch_python("-c", GROUP, *words, *more)
        shell.wait_for(lambda: rounds_done(place) >= server_round, process)
        if number == signal.SIGKILL:
            process.send_signal(number)
        else:
            os.killpg(process.pid, number)  # as a terminal does
        done = shell.finish(process)
        return done, after_a_while(process.pid)

    killed, left_by_kill = cut_short(2, signal.SIGKILL, "--engine", "ray", *SETTINGS)
    interrupted, left_by_interrupt = cut_short(4, signal.SIGINT, "--resume", "--quiet")
    return Runs(
        embedded=shell.run("--workspace", str(folder / "embedded"), *SETTINGS).json,
        on_ray=shell.run("--workspace", str(folder / "ray"), "--engine", "ray", *SETTINGS),
        killed=killed,
        left_by_kill=left_by_kill,
        interrupted=interrupted,
        left_by_interrupt=left_by_interrupt,
        resumed=shell.run(*words[2:], "--resume", "--engine", "in-process", "--quiet", "--json").json,
    )


def rounds_done(workspace: Path) -> int:
    for checkpoint in workspace.glob("runs/*/train/checkpoint.npz"):
        with np.load(checkpoint) as stored:
            return int(json.loads(str(stored["head"]))["server_round"])
    return 0


def session(leader: int) -> set[int]:
    """Returns the processes of a session; Ray's are its members too."""
    lines = subprocess.run(
        ["ps", "-eo", "pid=,sid=,stat="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split() for line in lines.splitlines()]
    return {int(pid) for pid, sid, state in rows if int(sid) == leader and not state.startswith("Z")}


def after_a_while(leader: int) -> set[int]:
    """Returns the processes of a session that do not end by themselves within a minute."""
    deadline = time.monotonic() + 60
    while (left := session(leader)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def file_of(summary: dict[str, Any], *parts: str) -> Path:
    return Path(summary["paths"]["workspace"]).joinpath("runs", summary["run_id"], *parts)


def ledger(summary: dict[str, Any]) -> dict[str, list[str]]:
    """Returns the ledger's tables as sorted rows, without times and names of runs."""
    with sqlite3.connect(Path(summary["paths"]["workspace"]) / "ledger.sqlite") as connection:
        connection.row_factory = sqlite3.Row
        names = [
            row["name"] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        return {
            name: sorted(
                repr({key: row[key] for key in row.keys() if key not in CHANGING})  # noqa: SIM118  a Row
                for row in connection.execute(f"SELECT * FROM {name}")
            )
            for name in names
        }


def same(one: Any, other: Any, summaries: list[dict[str, Any]]) -> bool:
    """Whether two JSON values are equal but for the names of runs."""
    texts = [json.dumps(value, sort_keys=True) for value in (one, other)]
    return len({text.replace(s["run_id"], "RUN") for text, s in zip(texts, summaries, strict=True)}) == 1


def test_both_engines_train_the_same_bits(runs: Runs) -> None:
    embedded, on_ray = runs.embedded, runs.on_ray.json
    assert file_of(embedded, "train", "weights.npy").read_bytes() == (
        file_of(on_ray, "train", "weights.npy").read_bytes()
    )
    for key in ("metrics", "privacy", "simulation_only", "warnings"):
        assert same(embedded[key], on_ray[key], [embedded, on_ray]), key


def test_both_engines_leave_the_same_ledger(runs: Runs) -> None:
    embedded, on_ray = ledger(runs.embedded), ledger(runs.on_ray.json)
    assert embedded["releases"]
    assert embedded == on_ray
    certificates = [
        json.loads(Path(summary["paths"]["certificate"]).read_text())
        for summary in (runs.embedded, runs.on_ray.json)
    ]
    assert same(*(certificate["blocks"] for certificate in certificates), [runs.embedded, runs.on_ray.json])


def test_ray_says_nothing(runs: Runs) -> None:
    assert runs.on_ray.err == ""
    assert runs.interrupted.err.splitlines() == [
        "fedpipe: interrupted. Nothing is lost: --resume goes on with a run."
    ]


def test_a_run_cut_short_leaves_no_process(runs: Runs) -> None:
    assert (runs.killed.code, runs.interrupted.code) == (-signal.SIGKILL, 130)
    assert not runs.left_by_kill
    assert not runs.left_by_interrupt


def test_a_run_begun_on_ray_ends_in_process_with_the_same_bits(runs: Runs) -> None:
    assert file_of(runs.resumed, "train", "weights.npy").read_bytes() == (
        file_of(runs.embedded, "train", "weights.npy").read_bytes()
    )
    assert runs.resumed["metrics"] == runs.embedded["metrics"]
