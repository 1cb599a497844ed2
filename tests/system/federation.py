"""A federation of real processes on loopback, driven through the command line alone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sklearn.datasets

from tests.system.conftest import Done

PATIENCE_SECONDS = 240
SETTINGS = ("--set=training.num_rounds=2", "--set=privacy.epsilon=2")
NAMES = ("first", "second", "third")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_shards(folder: Path) -> None:
    """Divides the tumours among the owners: FOLDER/NAME/records.csv."""
    table = sklearn.datasets.load_breast_cancer(as_frame=True)
    frame = table.data[[name for name in table.data if not name.endswith("error")]]
    frame = frame.rename(
        columns=lambda name: f"mean_{name[5:]}" if name.startswith("mean ") else name
    ).rename(columns=lambda name: name.replace(" ", "_"))
    frame = frame.assign(
        diagnosis=["b" if each else "m" for each in table.target], record_id=range(len(frame))
    )
    for index, name in enumerate(NAMES):
        (folder / name).mkdir()
        frame[index :: len(NAMES)].to_csv(folder / name / "records.csv", index=False)


class Site:
    """A folder with an operator's directory and the homes of several owners; all processes run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.processes: list[subprocess.Popen[bytes]] = []
        (folder / "data").mkdir()
        write_shards(folder / "data")

    def run(self, *words: str) -> Done:
        """Runs a command to its end."""
        done = subprocess.run(
            self.command(words), check=False, cwd=self.folder, capture_output=True, text=True, timeout=300
        )
        return Done(code=done.returncode, out=done.stdout, err=done.stderr)

    def ok(self, *words: str) -> str:
        """Runs a command that must succeed, and returns what it printed."""
        done = self.run(*words)
        assert done.code == 0, done.err
        return done.out

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Starts a command in the background; its output goes to a file."""
        log = (self.folder / f"{len(self.processes)}.log").open("wb")
        process = subprocess.Popen(self.command(words), cwd=self.folder, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def command(self, words: tuple[str, ...]) -> list[str]:
        """Returns what runs a command."""
        return [sys.executable, "-m", "fedpipe", *words]

    def set_up(self) -> None:
        """Makes the federation and its members."""
        self.init()
        for name in NAMES:
            self.enrol(name)

    def init(self) -> None:
        """Makes the federation."""
        self.ok("federation", "init", "--name=demo", f"--address=127.0.0.1:{self.port}", "--dir=fed")

    def enrol(self, name: str) -> None:
        """Invites, enrols and admits an owner."""
        self.ok("federation", "invite", name, "--dir=fed")
        self.ok("client", "enroll", f"{name}.invitation.json", f"--home={name}")
        self.ok("federation", "admit", f"{name}.request.json", "--dir=fed")

    def up(self, *more: str) -> subprocess.Popen[bytes]:
        """Starts the operator's daemon, and waits until it serves."""
        before = self.told("fed", "Up.")
        started = self.start("federation", "up", "--dir=fed", *more)
        self.wait_for(lambda: self.told("fed", "Up.") > before, started)
        return started

    def told(self, home: str, message: str) -> int:
        """Returns how often a daemon has logged `message`."""
        return sum(each["message"] == message for each in self.log(home))

    def log(self, home: str) -> list[dict[str, Any]]:
        """Returns a daemon's log, without a line that is being written."""
        path = self.folder / home / "log.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def join(self, name: str, *more: str) -> subprocess.Popen[bytes]:
        """Starts a node, and waits until it is connected."""
        started = self.start("client", "join", f"--home={name}", f"--data=data/{name}", *more)
        self.wait_for(lambda: self.state(name) == (started.pid, "connected"), started)
        return started

    def state(self, name: str) -> tuple[int, str]:
        """Returns the process of a node, and what it last said of its connection."""
        path = self.folder / name / "status.json"
        if not path.exists():
            return 0, ""
        found = json.loads(path.read_text())
        return found["pid"], found["state"]

    def steps(self, name: str) -> list[tuple[str, int]]:
        """Returns what a node has answered: steps and rounds."""
        answered = [each for each in self.log(name) if each["message"] == "Answering."]
        return [(each["step"], each.get("round", 0)) for each in answered]

    def wait_for(self, condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
        """Waits until `condition` holds, which must be before `process` ends."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert process.poll() is None, self.tails()
            assert time.monotonic() < deadline, self.tails()
            time.sleep(0.1)

    def tails(self) -> str:
        """Returns the ends of all logs."""
        return "\n".join(path.read_text()[-2000:] for path in sorted(self.folder.glob("*.log")))

    def cycle(self, *more: str) -> Done:
        """Runs a full cycle."""
        return self.run(*self.cycle_words(*more))

    @staticmethod
    def cycle_words(*more: str) -> tuple[str, ...]:
        """Returns the command of a full cycle."""
        return ("federation", "run", "--dir=fed", "--config=breast_cancer", "--json", *SETTINGS, *more)

    def budget(self, name: str) -> list[dict[str, Any]]:
        """Returns what an owner's ledger says of her blocks."""
        report = json.loads(self.ok("client", "budget", f"--home={name}", "--format=json"))
        found: list[dict[str, Any]] = report["blocks"]
        return found

    def end(self) -> None:
        """Ends whatever still runs."""
        for process in self.processes:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGCONT)
                process.kill()
            process.wait()
