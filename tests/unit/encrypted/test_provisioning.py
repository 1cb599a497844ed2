"""Finding an interpreter for the parties, and refusing what does not fit."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from fedpipe.encrypted import provisioning
from fedpipe.errors import EncryptedError


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty machine: nothing on the PATH, no pyenv."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    return tmp_path


def test_shim_that_fails_is_passed_over(machine: Path) -> None:
    script(machine / "bin/python3.10", "exit 127")
    real = script(machine / "pyenv/versions/3.10.13/bin/python", "echo cpython 3.10 True")
    assert provisioning.find_python() == real


def test_interpreter_of_another_version_is_passed_over(machine: Path) -> None:
    script(machine / "bin/python3.10", "echo cpython 3.11 True")
    older = script(machine / "bin/python3.9", "echo cpython 3.9 True")
    assert provisioning.find_python() == older


def test_uv_is_asked_last(machine: Path) -> None:
    managed = script(machine / "managed/python3.10", "echo cpython 3.10 True")
    script(machine / "bin/uv", f'test "$5" = 3.10 && echo {managed}')
    assert provisioning.find_python() == managed


def test_machine_without_an_interpreter_is_told_what_is_missing(machine: Path) -> None:
    with pytest.raises(EncryptedError, match=r"Expected CPython 3.10, 3.9, 3.8 .* found none: install one"):
        provisioning.find_python()


def test_missing_environment_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(EncryptedError, match="run 'fedpipe encrypted install'"):
        provisioning.find_environment(tmp_path)


def test_environment_of_another_lock_is_refused(tmp_path: Path) -> None:
    script(tmp_path / "bin/python", "")
    (tmp_path / "installed-requirements").write_text("0" * 64)
    with pytest.raises(EncryptedError, match="another's"):
        provisioning.find_environment(tmp_path)


def test_failed_install_leaves_no_environment(machine: Path) -> None:
    broken = script(machine / "bin/python3.10", "echo no such wheel >&2; exit 1")
    with pytest.raises(EncryptedError, match="no such wheel"):
        provisioning.install(machine / "home", lambda line: None, python=broken)
    with pytest.raises(EncryptedError):
        provisioning.find_environment(machine / "home")


def test_parties_see_nothing_of_this_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(sys.prefix)))
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    variables = provisioning.environment()
    assert "VIRTUAL_ENV" not in variables
    assert os.listdir(variables["PYTHONPATH"]).count("party") == 1


def test_lock_pins_every_package() -> None:
    lines = (Path(provisioning._lock_path())).read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert pins == sorted(pins, key=lambda pin: pin.partition("==")[0])
    assert all(line.count("==") == 1 for line in pins)
    assert {"tensorflow==2.9.1", "tf-encrypted==0.9.1"} < set(pins)


def test_party_code_imports_nothing_else_of_fedpipe() -> None:
    for path in (Path(provisioning.__file__).parent / "party").glob("*.py"):
        assert "import fedpipe" not in path.read_text()
        assert "from fedpipe" not in path.read_text()
