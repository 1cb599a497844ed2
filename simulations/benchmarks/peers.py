"""Peers in environments of their own, made from pinned requirements, each a process that takes its turn."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What a peer needs.

    Attributes:
      name: of its folder.
      requirements: resolved by pip.
      bare: installed afterwards as they are: what they ask for cannot be had, and works without.
    """

    name: str
    requirements: tuple[str, ...]
    bare: tuple[str, ...] = ()


OPACUS = Environment(name="opacus", requirements=("opacus==1.5.4", "torch==2.4.1", "numpy<2"))
JAX_PRIVACY = Environment(name="jax-privacy", requirements=("jax-privacy==2.0.0",))
PFL = Environment(name="pfl", requirements=("pfl==0.6.0", "torch==2.4.1", "numpy<2"))
TFF = Environment(
    name="tff",
    # tensorflow-federated pins a jaxlib that is gone from the registry.
    requirements=(
        "tensorflow==2.14.1",
        "jax==0.4.20",
        "jaxlib==0.4.20",
        "scipy<1.12",
        "ml-dtypes==0.2.0",
        "setuptools<81",
        "attrs==23.2.0",
        "portpicker==1.6.0",
        "tensorflow-model-optimization==0.7.5",
        "dm-tree==0.1.8",
        "googleapis-common-protos==1.61.0",
        "cachetools~=5.3",
        "tqdm~=4.64",
        "sqlalchemy==2.0.36",
        "scikit-learn==1.5.2",
        "decorator",
        "cloudpickle",
    ),
    bare=(
        "tensorflow-federated==0.87.0",
        "google-vizier==0.1.11",
        "tensorflow-privacy==0.9.0",
        "dp-accounting==0.4.3",
        "tensorflow-probability==0.22.1",
        "mpmath",
        "immutabledict",
    ),
)
# glibc gives large buffers back at once and pays for every page again: Opacus is up to 5 times slower.
TUNING = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "MALLOC_TOP_PAD_": "268435456",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


def make_environment(folder: Path, environment: Environment) -> Path:
    """Returns the Python of the environment in `folder`, which is made if it is not complete."""
    home = folder / environment.name
    python, complete = home / "bin" / "python", home / ".complete"
    wanted = "\n".join((*environment.requirements, *environment.bare))
    if not (complete.exists() and complete.read_text() == wanted):
        print(f"Installing {environment.name} into {home}", file=sys.stderr)
        venv.create(home, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "-q"]
        subprocess.run([*install, *environment.requirements], check=True)
        if environment.bare:
            subprocess.run([*install, "--no-deps", *environment.bare], check=True)
        complete.write_text(wanted)
    return python


class Worker:
    """One peer on one problem; a call makes it take its steps and returns its seconds."""

    def __init__(self, python: Path, script: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [python, str(Path(__file__).with_name(script)), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **TUNING},
            text=True,
            start_new_session=True,
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
        """Ends the process and those that it started: some peers leave workers behind."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _read(self) -> float:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise RuntimeError("Expected seconds from a peer, found that it ended: run its script by hand.")
        return float(line)


def step_peers(folder: Path, problem: str) -> dict[str, Callable[[], Worker]]:
    """Returns those that make local steps, by name."""

    def start(environment: Environment, script: str, *arguments: str) -> Callable[[], Worker]:
        return lambda: Worker(make_environment(folder, environment), script, problem, *arguments)

    peers = {
        "Opacus, per-sample gradients": start(OPACUS, "opacus_worker.py", "hooks"),
        "Opacus, ghost clipping": start(OPACUS, "opacus_worker.py", "ghost"),
    }
    if problem != "cnn":
        peers["jax-privacy, microbatches of 32"] = start(JAX_PRIVACY, "jax_worker.py")
    return peers


def round_peers(folder: Path) -> dict[str, Callable[[], Worker]]:
    """Returns those that make federated rounds, by name."""
    return {
        "pfl, no privacy for records": lambda: Worker(make_environment(folder, PFL), "pfl_worker.py"),
        "TensorFlow Federated, no privacy": lambda: Worker(make_environment(folder, TFF), "tff_worker.py"),
        "Flower on Ray, naive TensorFlow Privacy client": lambda: Worker(
            Path(sys.executable), "flower_worker.py"
        ),
    }
