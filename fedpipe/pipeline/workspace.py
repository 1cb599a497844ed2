"""The one directory that holds everything a coordinator keeps between runs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from fedpipe.errors import ConfigError, WorkspaceError
from fedpipe.files import clear_drafts, write_text

MARKER = "fedpipe-workspace.json"
PUBLIC_KEY = "signing.pub"
FORMAT_VERSION = 1

_OTHER = "Choose another directory with --workspace."
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Workspace:
    """A directory, closed to other users, with a marker that says it is ours.

    Args:
        root: made if it is missing; taken over if it is empty.
        create: False opens an existing workspace and writes nothing.

    Raises:
        WorkspaceError: `root` is a file, holds other things, cannot be made, or is of another format.
    """

    def __init__(self, root: Path, *, create: bool = True) -> None:
        self.root = root.absolute()
        if create:
            _make(self.root)
        _check_marker(self.root)

    @classmethod
    def open_existing(cls, root: Path) -> Workspace:
        """Returns the workspace at `root`; creates nothing, whatever it finds."""
        return cls(root, create=False)

    @property
    def metadata_path(self) -> Path:
        """The file of the metadata store."""
        return self.root / "metadata.sqlite"

    @property
    def ledger_path(self) -> Path:
        """The file of the ledger that a simulated population's nodes share."""
        return self.root / "ledger.sqlite"

    @property
    def witness_path(self) -> Path:
        """The file of the coordinator's own ledger, which keeps what the clients' ledgers have shown."""
        return self.root / "witness.sqlite"

    @property
    def signing_key_path(self) -> Path:
        """The operator's private key, which signs certificates."""
        return self.root / "signing.key"

    @property
    def public_key_path(self) -> Path:
        """The public half of that key: for handing out."""
        return self.root / PUBLIC_KEY

    @property
    def runs_dir(self) -> Path:
        """Holds `<run_id>/<step>/`: artifacts and payloads."""
        return self.root / "runs"

    @property
    def models_dir(self) -> Path:
        """Holds the models that were pushed."""
        return self.root / "models"

    @property
    def population_dir(self) -> Path:
        """Holds the data of a simulated population."""
        return self.root / "population"

    def step_dir(self, run_id: str, step: str) -> Path:
        """Returns where a step of a run keeps its files.

        Raises:
            ConfigError: `run_id` cannot be the name of a directory.
        """
        if not _RUN_ID.fullmatch(run_id):
            raise ConfigError(
                f"Expected a run id of at most 100 letters, digits, '.', '_' and '-', found {run_id!r}. "
                f"Choose another."
            )
        return self.runs_dir / run_id / step

    def make_step_dir(self, run_id: str, step: str) -> Path:
        """Makes sure that the directory of the step exists, and returns it."""
        directory = self.step_dir(run_id, step)
        for each in (self.runs_dir, directory.parent, directory):
            each.mkdir(mode=0o700, exist_ok=True)
        return directory

    def uri(self, path: Path) -> str:
        """Returns `path` relative to the workspace, as artifacts record it."""
        return path.relative_to(self.root).as_posix()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps every other writer out, in this process or another; never waits.

        Raises:
            WorkspaceError: it is held elsewhere.
        """
        path = self.root / "lock"
        lock = FileLock(path, mode=0o600)
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            raise WorkspaceError(
                f"Expected workspace {self.root} to be free, found it in use by {_holder(path)}. "
                f"Wait until that ends, or choose another directory with --workspace."
            ) from error
        try:
            path.write_text(f"{os.getpid()}\n")
            clear_drafts(self.root)
            yield
        finally:
            lock.release()


def _holder(path: Path) -> str:
    try:
        return f"process {int(path.read_text())}"
    except (OSError, ValueError):
        return "another process"


def _make(root: Path) -> None:
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (root / MARKER).exists() or _occupied(root):
            return
        root.chmod(0o700)
        write_text(
            root / MARKER, json.dumps({"format": "fedpipe workspace", "version": FORMAT_VERSION}) + "\n"
        )
    except FileExistsError as error:
        raise WorkspaceError(f"Expected a directory at {root}, found a file. {_OTHER}") from error
    except OSError as error:
        raise WorkspaceError(
            f"Expected to make a workspace at {root}, found: {error.strerror}. {_OTHER}"
        ) from error


def _occupied(root: Path) -> bool:
    """Whether there is anything but markers that were being written when a process died, or just now."""
    return any(not entry.name.startswith(f".{MARKER}.") for entry in root.iterdir() if entry.name != MARKER)


def _check_marker(root: Path) -> None:
    marker = root / MARKER
    if not marker.is_file():
        raise WorkspaceError(_no_workspace(root))
    try:
        version = json.loads(marker.read_text())["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkspaceError(f"Expected a readable {MARKER} in {root}, found it damaged. {_OTHER}") from error
    if version != FORMAT_VERSION:
        raise WorkspaceError(
            f"Expected workspace format {FORMAT_VERSION} in {root}, found {version!r}. "
            f"Open it with the fedpipe that made it, or choose another directory with --workspace."
        )


def _no_workspace(root: Path) -> str:
    if root.is_dir() and _occupied(root):
        return f"Expected a workspace or an empty directory at {root}, found other files. {_OTHER}"
    found = "a file" if root.is_file() else "an empty directory" if root.is_dir() else "nothing"
    remedy = "Make one with fedpipe simulate, or name it with --workspace."
    return f"Expected a workspace at {root}, found {found}. {remedy}"
