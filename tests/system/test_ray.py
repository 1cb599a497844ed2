"""The engine on Ray beside the embedded one: the same bits, the same ledger, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpipe.files import canonical_json
from fedpipe.ledger import Ledger

pytestmark = pytest.mark.slow

# Sums of this size come out otherwise with other numbers of threads.
SETTINGS = (
    *("--set", "data.limit=3000", "--set", "training.num_rounds=6", "--set", "federation.num_actors=2"),
    *("--set", "privacy.randomness=seeded", "--quiet", "--json"),
)
GROUP = "import os, sys; os.setsid(); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
# A request's digest covers its run's name.
# A division names its index of first spans, which has an identity of its own.
CHANGING = {"public_key", "run_id", "request_digest", "division"}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The same run on each engine."""

    embedded: dict[str, Any]
    on_ray: dict[str, Any]
    said_by_ray: str


@dataclass(frozen=True, kw_only=True)
class Disturbed:
    """A run that began on Ray, was killed, went on, was interrupted, and ended in process."""

    killed: Any
    left_by_kill: set[str]
    interrupted: Any
    left_by_interrupt: set[str]
    ended: dict[str, Any]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, shell: Any) -> Pair:
    place = tmp_path_factory.mktemp("engines")
    on_ray = shell.run("--workspace", str(place / "ray"), "--engine", "ray", *SETTINGS)
    return Pair(
        embedded=shell.run("--workspace", str(place / "embedded"), *SETTINGS).json,
        on_ray=on_ray.json,
        said_by_ray=on_ray.err,
    )


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory, shell: Any) -> Disturbed:
    place = tmp_path_factory.mktemp("disturbed") / "workspace"
    words = ("--workspace", str(place))

    def cut_short(server_round: int, *more: str, kill: bool) -> tuple[Any, set[str]]:
        process = shell.launch_python("-c", GROUP, "-m", "fedpipe.simulate", *words, *more)
        shell.wait_for(lambda: rounds_done(place) >= server_round, process)
        if kill:
            process.send_signal(signal.SIGKILL)
        else:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        return shell.finish(process), after_a_while(process.pid)

    killed, left_by_kill = cut_short(2, "--engine", "ray", *SETTINGS, kill=True)
    interrupted, left_by_interrupt = cut_short(4, "--resume", "--quiet", kill=False)
    return Disturbed(
        killed=killed,
        left_by_kill=left_by_kill,
        interrupted=interrupted,
        left_by_interrupt=left_by_interrupt,
        ended=shell.run(*words, "--resume", "--engine", "in-process", "--quiet", "--json").json,
    )


def rounds_done(workspace: Path) -> int:
    for checkpoint in workspace.glob("runs/*/train/checkpoint.npz"):
        with np.load(checkpoint) as stored:
            return int(json.loads(str(stored["head"]))["server_round"])
    return 0


def session(leader: int) -> set[str]:
    """Returns what runs in a session, Ray's own processes among it.

    Its two agents, which see no message, notice only after a minute that they were orphaned.
    """
    lines = subprocess.run(
        ["ps", "-ewwo", "sid=,stat=,args="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(maxsplit=2) for line in lines.splitlines()]
    return {
        command
        for sid, state, command in rows
        if int(sid) == leader and not state.startswith("Z") and "/agent" not in command
    }


def after_a_while(leader: int) -> set[str]:
    """Returns the processes of a session that do not end by themselves within a minute."""
    deadline = time.monotonic() + 60
    while (left := session(leader)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def ledger(summary: dict[str, Any]) -> list[str]:
    """Returns what the ledger's entries say, in any order, without keys, names of runs and others' heads."""
    with Ledger(Path(summary["paths"]["workspace"]) / "ledger.sqlite") as opened:
        said = [(entry.kind, json.loads(entry.text)) for entry in opened.entries() if entry.kind != "witness"]
    return sorted(
        f"{kind} {canonical_json({name: value for name, value in body.items() if name not in CHANGING})}"
        for kind, body in said
    )


def folder(summary: dict[str, Any]) -> Path:
    return Path(summary["paths"]["workspace"]) / "runs" / str(summary["run_id"])


def weights(summary: dict[str, Any]) -> bytes:
    return (folder(summary) / "train" / "weights.npy").read_bytes()


def test_both_engines_train_the_same_bits(pair: Pair) -> None:
    assert weights(pair.embedded) == weights(pair.on_ray)
    for key in ("metrics", "privacy", "simulation_only", "warnings"):
        assert pair.embedded[key] == pair.on_ray[key], key


def version(summary: dict[str, Any]) -> dict[str, Any]:
    """Returns what is registered, without its time, its run's name and signatures, which are of both."""
    found: dict[str, Any] = json.loads((folder(summary) / "register" / "model_version.json").read_text())
    certificate = found["certificate"]
    said = [each["statement"] for each in certificate["attestations"]]
    for owner in (found, certificate, *certificate["releases"], *said):
        del owner["run_id"]
    for owner, key in ((found, "created_at"), (certificate, "issued_at"), (certificate, "signature")):
        del owner[key]
    return found | {"certificate": certificate | {"attestations": said}}


def test_both_engines_make_the_same_version(pair: Pair) -> None:
    assert version(pair.embedded) == version(pair.on_ray)


def test_both_engines_leave_the_same_ledger(pair: Pair) -> None:
    embedded, on_ray = ledger(pair.embedded), ledger(pair.on_ray)
    assert any(entry.startswith("release") for entry in embedded)
    assert embedded == on_ray


def test_ray_says_nothing(pair: Pair, disturbed: Disturbed) -> None:
    assert pair.said_by_ray == ""
    assert disturbed.interrupted.err.splitlines() == [
        "fedpipe: interrupted. Nothing is lost: --resume goes on with a run."
    ]


def test_a_run_cut_short_leaves_no_process(disturbed: Disturbed) -> None:
    assert (disturbed.killed.code, disturbed.interrupted.code) == (-signal.SIGKILL, 130)
    assert not disturbed.left_by_kill
    assert not disturbed.left_by_interrupt


def test_a_run_begun_on_ray_ends_in_process_with_the_same_bits(pair: Pair, disturbed: Disturbed) -> None:
    assert weights(disturbed.ended) == weights(pair.embedded)
    assert disturbed.ended["metrics"] == pair.embedded["metrics"]
