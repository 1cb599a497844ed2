"""Files that survive a crash: written under a temporary name, fsynced, renamed."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

_DRAFT = re.compile(r"\..+\.[a-z0-9_]{8}")  # as tempfile names them


def write_atomically(path: Path, write: Callable[[IO[bytes]], object], *, mode: int = 0o600) -> None:
    """Makes `path` hold exactly what `write` wrote, or leaves what was there before."""
    make_private_directory(path.parent)
    with draft(path, write, mode=mode) as written:
        os.replace(written, path)
    sync_directory(path.parent)


@contextmanager
def draft(path: Path, write: Callable[[IO[bytes]], object], *, mode: int = 0o600) -> Iterator[Path]:
    """Yields a durable temporary file beside `path` that holds what `write` wrote; removes it.

    It is locked meanwhile, which tells it from what a dead process left.
    """
    with _locked_file(path) as stream:
        try:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
            os.fchmod(stream.fileno(), mode)
            yield Path(stream.name)
        finally:
            Path(stream.name).unlink(missing_ok=True)


def clear_drafts(root: Path) -> None:
    """Removes below `root` what was being written under a temporary name when its process died.

    What is no longer needed may hold records or updates. Directories bear no lock: nobody may be making
    one there meanwhile.
    """
    for folder, folders, names in os.walk(root):
        for name in filter(_DRAFT.fullmatch, folders):
            shutil.rmtree(Path(folder, name), ignore_errors=True)
        for name in filter(_DRAFT.fullmatch, names):
            _remove_unlocked(Path(folder, name))


def _locked_file(path: Path) -> Any:
    """Returns a new file beside `path`, open and locked."""
    while True:
        stream = tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False)  # noqa: SIM115
        fcntl.flock(stream, fcntl.LOCK_EX)
        if os.fstat(stream.fileno()).st_nlink:
            return stream
        stream.close()  # between two of these lines it was taken for a dead process's


def _remove_unlocked(path: Path) -> None:
    with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)


def make_private_directory(directory: Path) -> None:
    """Makes `directory` and its missing parents, closed to other users."""
    if not directory.is_dir():
        make_private_directory(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)


def sync_directory(directory: Path) -> None:
    """Makes renames inside `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Makes `path` hold `text` in UTF-8."""
    write_atomically(path, lambda stream: stream.write(text.encode()), mode=mode)


def canonical_json(value: Any) -> str:
    """Returns the one JSON text of `value`: sorted keys, no spaces, no NaN.

    >>> canonical_json({"b": 1, "a": [1.5, None]})
    '{"a":[1.5,null],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def ordered_json(value: Any) -> str:
    """Returns the compact JSON text of `value` with keys in their own order, which may mean something.

    The order of a schema's classes is that of the model's outputs, for one.

    >>> ordered_json({"b": 1, "a": 2})
    '{"b":1,"a":2}'
    """
    return json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def sha256(data: bytes) -> str:
    """Returns the SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def digest_json(value: Any) -> str:
    """Returns the SHA-256 of the canonical JSON of `value`."""
    return sha256(canonical_json(value).encode())
