"""The parties' environment: its own interpreter, since tf-encrypted runs on one old TensorFlow alone."""

from __future__ import annotations

import importlib.resources
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock

from fedpipe.errors import EncryptedError
from fedpipe.files import make_private_directory, sha256, write_text

VERSIONS = ("3.10", "3.9", "3.8")  # of CPython, for which TensorFlow 2.9.1 and tf-encrypted have wheels
_PROBE_SECONDS = 30
_INSTALL_SECONDS = 1800
_STAMP = "installed-requirements"
_CHECK = (
    "import sys; from party.runtime import supports_secure_randomness as found; "
    "sys.exit(0 if found() else 'it is missing')"
)
Say = Callable[[str], None]


def default_home() -> Path:
    """Returns where the environment lives unless told otherwise."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "fedpipe" / "encrypted"


def find_environment(home: Path) -> Path:
    """Returns the interpreter of an environment that `install` has completed for this lock.

    Raises:
      EncryptedError: there is none, or it is another lock's.
    """
    python, stamp = home / "bin" / "python", home / _STAMP
    if not python.exists() or not stamp.exists():
        raise EncryptedError(
            f"Expected the parties' environment in {home}, found none: run 'fedpipe encrypted install'."
        )
    if stamp.read_text(encoding="utf-8").strip() != _lock_digest():
        raise EncryptedError(
            f"Expected an environment of this fedpipe in {home}, found another's: "
            "run 'fedpipe encrypted install'."
        )
    return python


def install(home: Path, say: Say, *, python: Path | None = None) -> Path:
    """Makes the environment unless it is complete; returns its interpreter.

    Args:
      home: its folder.
      say: told what is being done.
      python: a CPython of a fitting version, instead of searching for one.

    Raises:
      EncryptedError: no interpreter fits, pip fails, or the secure random operation does not load.
    """
    make_private_directory(home.parent)
    with FileLock(home.parent / f"{home.name}.lock", mode=0o600):
        try:
            found = find_environment(home)
        except EncryptedError:
            found = _build(home, say, python or find_python())
    say(f"The parties' environment is in {home}.")
    return found


def find_python() -> Path:
    """Returns a CPython that can run the parties: from the PATH, pyenv or uv.

    Raises:
      EncryptedError: there is none.
    """
    for version in VERSIONS:
        for candidate in _candidates(version):
            if _fits(candidate, version):
                return candidate
    raise EncryptedError(
        f"Expected CPython {', '.join(VERSIONS)} on the PATH, in pyenv or in uv, found none: install one "
        "(for instance 'pyenv install 3.10' or 'uv python install 3.10'), or name one with --python."
    )


def _candidates(version: str) -> Iterator[Path]:
    """Yields programs that may be it. A shim of pyenv is on the PATH even when it fails."""
    if found := shutil.which(f"python{version}"):
        yield Path(found)
    root = os.environ.get("PYENV_ROOT") or _output("pyenv", "root") or str(Path.home() / ".pyenv")
    yield from sorted(Path(root, "versions").glob(f"{version}.*/bin/python"), reverse=True)
    if found := _output("uv", "python", "find", "--no-python-downloads", "--no-project", version):
        yield Path(found)


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_PROBE_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _fits(python: Path, version: str) -> bool:
    wanted = f"cpython {version} True"
    probe = (
        "import sys, venv, ensurepip; v = sys.version_info; "
        "print(sys.implementation.name, '%d.%d' % v[:2], sys.maxsize > 2**32)"
    )
    return _output(str(python), "-I", "-c", probe) == wanted


def _build(home: Path, say: Say, python: Path) -> Path:
    """Makes the environment anew, apart from whatever surrounds this process."""
    say(f"Making the parties' environment with {python} (about a minute)")
    draft = home.with_name(f"{home.name}-old")
    shutil.rmtree(draft, ignore_errors=True)
    if home.exists():
        home.rename(draft)
        shutil.rmtree(draft)
    _run([str(python), "-I", "-m", "venv", str(home)], "make an environment")
    own = home / "bin" / "python"
    pip = ["-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    _run([str(own), *pip, "-r", str(_lock_path())], "install the locked packages")
    # Without this operation tf-encrypted goes on with masks that anybody can guess.
    _run([str(own), "-c", _CHECK], "load the secure random operation")
    write_text(home / _STAMP, _lock_digest() + "\n")
    return own


def _run(command: list[str], purpose: str) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=_INSTALL_SECONDS, env=environment()
    )
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise EncryptedError(f"Expected {command[0]} to {purpose}, found that it failed: {lines[-1]}")


def environment() -> dict[str, str]:
    """Returns the variables of the parties' processes: none that leads Python into another environment."""
    leading = ("PYTHON", "VIRTUAL_ENV", "CONDA", "LD_PRELOAD", "TF_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(leading)}
    package = str(Path(__file__).parent)  # where `party` is a package of its own
    return {**kept, "PYTHONPATH": package, "PYTHONNOUSERSITE": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def _lock_path() -> Path:
    package = Path(str(importlib.resources.files("fedpipe")))
    packaged = package / "_requirements" / "encrypted.txt"
    return packaged if packaged.is_file() else package.parent / "requirements" / "encrypted.txt"


def _lock_digest() -> str:
    return sha256(_lock_path().read_bytes())
