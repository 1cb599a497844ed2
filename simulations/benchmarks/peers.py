"""Peers in environments of their own, made from pinned requirements, each a process that takes its turn."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

OPACUS = ("opacus==1.5.4", "torch==2.4.1", "numpy<2")
# glibc gives large buffers back at once and pays for every page again: Opacus is up to 5 times slower.
TUNING = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "MALLOC_TOP_PAD_": "268435456",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


def make_environment(folder: Path, name: str, requirements: tuple[str, ...]) -> Path:
    """Returns the Python of the environment `folder`/`name`, which is made if it is not complete."""
    python = folder / name / "bin" / "python"
    complete = folder / name / ".complete"
    if not (complete.exists() and complete.read_text() == "\n".join(requirements)):
        print(f"Installing {', '.join(requirements)} into {folder / name}", file=sys.stderr)
        venv.create(folder / name, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *requirements], check=True)
        complete.write_text("\n".join(requirements))
    return python


class Worker:
    """One peer on one problem; a call makes it take its steps and returns its seconds."""

    def __init__(self, python: Path, *arguments: str) -> None:
        script = Path(__file__).with_name("opacus_worker.py")
        self._process = subprocess.Popen(
            [python, str(script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **TUNING},
            text=True,
        )
        self.first_seconds = self._read()

    def __call__(self) -> float:
        """Returns the seconds of all steps."""
        if self._process.stdin is None:
            raise RuntimeError("Expected a worker with an input, found none.")
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> float:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise RuntimeError("Expected seconds from a peer, found that it ended: run its script by hand.")
        return float(line)


def opacus(folder: Path, problem: str) -> dict[str, Callable[[], Worker]]:
    """Returns Opacus' two modes, by name."""

    def start(mode: str) -> Callable[[], Worker]:
        return lambda: Worker(make_environment(folder, "opacus", OPACUS), problem, mode)

    return {"Opacus, per-sample gradients": start("hooks"), "Opacus, ghost clipping": start("ghost")}
