from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

START_SECONDS = 60.0


def _binaries() -> Path | None:
    """Returns the folder of PostgreSQL's programs, the newest first; Debian keeps them off the PATH."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    found = shutil.which("initdb")
    candidates = [*reversed(versions), *([Path(found).parent] if found else [])]
    return next((folder for folder in candidates if (folder / "postgres").exists()), None)


def _owner() -> str | None:
    """Returns whom the server runs as: it refuses to run as root."""
    if os.getuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a database of a throwaway server, reached by a socket in a folder of its own."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("PostgreSQL's server is not installed")
    folder = Path(tempfile.mkdtemp(prefix="fedpipe-pg-", dir="/tmp"))
    owner = _owner()
    if owner is not None:
        shutil.chown(folder, owner)
    data = folder / "data"
    initdb = [binaries / "initdb", "--auth=trust", "--username=ledger", "--encoding=UTF8", data]
    subprocess.run(initdb, user=owner, check=True, capture_output=True, cwd=folder)
    command = [binaries / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses="]
    with open(folder.with_suffix(".log"), "wb") as log:
        server = subprocess.Popen(command, user=owner, stdout=log, stderr=log, cwd=folder)
    try:
        _await(binaries, folder, server)
        yield f"postgresql+psycopg://ledger@/postgres?host={folder}"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=START_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".log").unlink()


def _await(binaries: Path, folder: Path, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while subprocess.run([binaries / "pg_isready", "-q", "-h", folder], check=False).returncode:
        assert server.poll() is None, folder.with_suffix(".log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)
