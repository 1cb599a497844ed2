"""How every command line begins and ends."""

from __future__ import annotations

import importlib.machinery
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from fedpipe import entry
from fedpipe.errors import BudgetError, ConfigError, FederationError

ROOT = Path(__file__).parents[2]
SECRET = "Jane Roe"


def run(action: Any, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def command() -> None:
        if isinstance(action, BaseException):
            raise action

    with pytest.raises(SystemExit) as caught:
        entry.run_command(app, [], name="fedpipe")
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


def _sqlalchemy_error() -> Exception:
    from sqlalchemy.exc import OperationalError

    return OperationalError("INSERT INTO releases", {"reply": SECRET}, sqlite3.OperationalError("locked"))


def _metadata_error() -> Exception:
    from ml_metadata.errors import InternalError

    return InternalError("database is locked\nmore")


def test_a_refusal_keeps_the_lines_of_its_ways_out(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(BudgetError("Requested: 2.\nWays out:\n\n  1. --set a=b\n"), capsys)
    assert (code, out) == (3, "")
    assert err == "fedpipe: Requested: 2.\nWays out:\n  1. --set a=b\n"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("Expected a, found b."), 2, "Expected a, found b."),
        (FederationError("Expected a,\n  found b."), 2, "Expected a, found b."),
        (BudgetError("Requested: 2."), 3, "Requested: 2."),
        (click.UsageError("No such option: --x"), 2, "No such option: --x (see --help)"),
        (KeyboardInterrupt(), 130, "interrupted. Nothing is lost: --resume goes on with a run."),
        (click.exceptions.Abort(), 130, "interrupted. Nothing is lost: --resume goes on with a run."),
        (
            OSError(28, "No space left on device", "/data/x"),
            2,
            "Expected to read or write a file at /data/x, found: No space left on device.",
        ),
        (
            IsADirectoryError(21, "Is a directory", "/data/.x.3du7mosf", None, "/data/x"),
            2,
            "Expected to read or write a file at /data/x, found: Is a directory.",
        ),
        (OSError("odd"), 2, "Expected to read or write a file, found: odd."),
        (PermissionError(13, "Permission denied"), 2, "found: Permission denied."),
        (sqlite3.OperationalError("disk is full"), 2, "a database of the workspace, found: disk is full."),
        (_sqlalchemy_error(), 2, "a database of the workspace, found: locked."),
        (_metadata_error(), 2, "a database of the workspace, found: database is locked."),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_an_expected_failure_is_one_line_and_an_exit_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found, out, err = run(error, capsys)
    assert (found, out) == (code, "")
    assert err.startswith("fedpipe: ")
    assert err.endswith(f"{line}\n")
    assert err.count("\n") == 1
    assert SECRET not in err


def test_what_nobody_expected_is_not_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError):
        run(ZeroDivisionError("a bug"), capsys)


@pytest.mark.parametrize(
    ("action", "code"), [(None, 0), (typer.Exit(), 0), (typer.Exit(4), 4)], ids=["done", "exit", "exit-4"]
)
def test_success_exits_with_the_code_of_the_command(
    action: Any, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(action, capsys) == (code, "", "")


def test_another_package_in_the_place_of_ours_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "server" / "__init__.py"
    spec = importlib.machinery.ModuleSpec("server", None, origin=str(other))
    find = entry.importlib.util.find_spec
    monkeypatch.setattr(
        entry.importlib.util, "find_spec", lambda name: spec if name == "server" else find(name)
    )
    code, out, err = run(None, capsys)
    assert (code, out) == (2, "")
    assert "package 'server'" in err
    assert str(other) in err


def test_a_package_that_is_missing_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(entry.importlib.util, "find_spec", lambda name: None)
    code, _, err = run(None, capsys)
    assert code == 2
    assert "found none" in err


@pytest.mark.parametrize("form", ["package", "module"])
@pytest.mark.parametrize("module", ["fedpipe.simulate", "fedpipe"])
def test_a_folder_with_packages_of_the_same_names_does_not_win(
    tmp_path: Path, form: str, module: str
) -> None:
    """`python -m` puts the current folder first."""
    for name in entry.SIBLINGS:
        if form == "package":
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong package')")
        else:
            (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    arguments = ["simulate"] if module == "fedpipe" else []
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments, "--config", "breast_cancer", "--data", "absent.csv"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "absent.csv" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_interrupt_during_imports_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nclass Stop:\n    def find_spec(self, name, *_):\n"
        "        if name == 'typer':\n            raise KeyboardInterrupt\nsys.meta_path.insert(0, Stop())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", "from fedpipe.start import main; main()"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "fedpipe: interrupted. Nothing was begun.\n"


def test_of_several_database_errors_the_first_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    error = sqlite3.OperationalError("cannot start a transaction within a transaction")
    error.__context__ = sqlite3.OperationalError(
        "Error when executing query: database or disk is full query: INSERT INTO `Event`;"
    )
    code, _, err = run(error, capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert "found: database or disk is full." in err
