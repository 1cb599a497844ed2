"""Whole runs through the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TIMEOUT_SECONDS = 300


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a process left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Its standard output as the one JSON object that it must be."""
        assert self.code == 0, self.err
        found: dict[str, Any] = json.loads(self.out)
        return found


class Shell:
    """Runs Python in a folder that holds other packages by the names of ours."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def launch(self, *words: str, module: str = "fedpipe.simulate") -> subprocess.Popen[str]:
        """Starts a command that reacts to an interrupt as one in a terminal does."""
        return self.launch_python("-m", module, *words)

    def run(self, *words: str, module: str = "fedpipe.simulate") -> Done:
        """Runs a command to its end."""
        return self.finish(self.launch(*words, module=module))

    def python(self, *words: str) -> Done:
        """Runs the bare interpreter, which sees neither this folder nor the environment."""
        return self.finish(self.launch_python("-I", *words))

    def finish(self, process: subprocess.Popen[str]) -> Done:
        """Waits for a process."""
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
        return Done(code=process.returncode, out=out, err=err)

    def wait_for(self, condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
        """Waits until `condition` holds, which must be before `process` ends."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not condition():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def launch_python(self, *words: str) -> subprocess.Popen[str]:
        """Starts the interpreter with these words."""
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            # Shells start jobs in the background with interrupts ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
        )


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A shell in a folder with a `server`, `clients` and `simulations` of its own."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for name in ("server", "clients", "simulations"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise SystemExit('the wrong package')\n")
    return Shell(folder)
