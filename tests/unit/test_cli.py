"""The command line: what it imports, what it refuses, and in how many lines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedpipe import __version__
from fedpipe.cli import app, main
from fedpipe.pipeline import MetadataStore, Workspace

HEAVY = ("tensorflow", "tensorflow_privacy", "flwr", "ray", "pandas", "numpy", "sqlalchemy", "ml_metadata")


def run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str, str]:
    """Returns exit code, standard output and standard error, as a shell would see them."""
    monkeypatch.setattr(sys, "argv", ["fedpipe", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    captured = capfd.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Runs a command that must be refused, and returns its only line."""

    def check(*arguments: object) -> str:
        code, out, err = run(monkeypatch, capfd, *arguments)
        assert (code, out) == (2, "")
        assert err.startswith("fedpipe: ")
        assert err.count("\n") == 1
        assert "Traceback" not in err
        return err.removeprefix("fedpipe: ").rstrip("\n")

    return check


@pytest.fixture
def empty_workspace(tmp_path: Path) -> Path:
    """A workspace in which nothing has run."""
    workspace = Workspace(tmp_path / "workspace")
    MetadataStore.open(workspace.metadata_path)
    return workspace.root


def test_verification_needs_no_tensorflow() -> None:
    code = "import sys, fedpipe.ledger.verify; print([name for name in sys.modules if name in %r])"
    forbidden = ("tensorflow", "tensorflow_privacy", "flwr", "ray", "ml_metadata", "server", "clients")
    done = subprocess.run(
        [sys.executable, "-c", code % (forbidden,)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_verification_of_anything_else_is_refused_in_one_line(refused, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "other.json"
    path.write_text("{}")
    assert "another file" in refused("budget", "verify", path)
    assert "No such file" in refused("budget", "verify", tmp_path / "none.json")
    path.write_text('{"format": "fedpipe privacy certificate", "version": 1}')
    assert "found 1" in refused("budget", "verify", path)
    assert "public key" in refused("budget", "verify", path, "--key", "abc")
    assert "NAME=PUBLIC" in refused("budget", "verify", path, "--client-key", "abc")


@pytest.mark.parametrize("module", ["fedpipe.cli", "fedpipe.simulate", "fedpipe.entry", "fedpipe.files"])
def test_importing_the_command_line_is_cheap(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_reading_a_configuration_needs_no_tensorflow() -> None:
    code = (
        "import sys; from fedpipe.config import load_config; load_config('breast_cancer');"
        "import fedpipe.cli, server.paper_trail;"
        "print([n for n in ('tensorflow', 'flwr', 'ray') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "command",
    [
        "",
        "simulate",
        "predict",
        "run",
        "run list",
        "run show",
        "model",
        "model list",
        "model show",
        "config",
        "config list",
        "config show",
        "config reference",
    ],
)
def test_every_command_explains_itself(command: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), "--help"], terminal_width=100)
    assert result.exit_code == 0
    assert "Usage:" in result.output
    assert "--help" in result.output


def test_version_is_one_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, capfd, "--version") == (0, f"fedpipe {__version__}\n", "")


def test_configurations_are_listed_and_shown(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(monkeypatch, capfd, "config", "list")
    assert (code, err) == (0, "")
    assert any(line.startswith("breast_cancer ") for line in out.splitlines())
    code, out, err = run(monkeypatch, capfd, "config", "show", "breast_cancer")
    assert (code, err) == (0, "")
    assert "name: breast_cancer" in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["simulat"], "No such command 'simulat'"),
        (["--nothing"], "No such option: --nothing"),
        (["simulate", "--worksapce", "x"], "No such option: --worksapce"),
        (["simulate", "--seed", "x"], "'x' is not a valid int"),
        (["simulate", "--seed", "-1"], "-1 is not in the range"),
        (["simulate", "extra"], "unexpected extra argument"),
        (["simulate", "--config"], "requires an argument"),
        (["simulate", "--config", "breast_cancr"], "Did you mean breast_cancer?"),
        (["simulate", "--config", "absent.yaml"], "a configuration file at absent.yaml"),
        (["simulate", "--set", "privacy.epsilon"], "KEY.PATH=VALUE"),
        (["simulate", "--set", "privacy.epsilom=1"], "Did you mean epsilon?"),
        (["simulate", "--set", "privacy.epsilon=-1"], "privacy.epsilon"),
        (["simulate", "--engine", "spark"], "federation.engine"),
        (["simulate", "--data", "absent.csv"], "absent.csv, found nothing: check the path"),
        (["simulate", "--resume", "--workspace", "absent"], "absent, found nothing"),
        (["predict", "--model", "m"], "Missing option '--input'"),
        (["config", "show", "digit"], "Did you mean digits?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_one_line_and_touches_nothing(
    refused, arguments: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in refused(*arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "list"],
        ["run", "show"],
        ["model", "list"],
        ["model", "show", "m"],
        ["predict", "--model", "m", "--input", "x.csv"],
    ],
    ids=" ".join,
)
def test_where_nothing_is_reading_makes_nothing(refused, arguments: list[str], tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    assert f"a workspace at {absent}, found nothing" in refused(*arguments, "--workspace", absent)
    tmp_path.joinpath("file").write_text("x")
    assert "found a file" in refused(*arguments, "--workspace", tmp_path / "file")
    assert "found other files" in refused(*arguments, "--workspace", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("command", ["run", "model"])
def test_an_empty_workspace_lists_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], empty_workspace: Path, command: str
) -> None:
    arguments = (command, "list", "--workspace", empty_workspace)
    assert run(monkeypatch, capfd, *arguments) == (0, "none yet\n", "")
    code, out, err = run(monkeypatch, capfd, *arguments, "--json")
    assert (code, json.loads(out), err) == (0, [], "")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "show", "nothing"], "Nothing has run yet"),
        (["run", "show"], "found none"),
        (["model", "show", "nothing"], "Train one with"),
        (["predict", "--model", "nothing", "--input", "x.csv"], "Train one with"),
        (["simulate", "--resume"], "without --resume"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_an_empty_workspace_says_how_to_begin(
    refused, arguments: list[str], expected: str, empty_workspace: Path
) -> None:
    line = refused(*arguments, "--workspace", empty_workspace)
    assert expected in line.splitlines()[-1]


def test_a_workspace_in_use_is_refused(refused, empty_workspace: Path) -> None:
    with Workspace(empty_workspace).lock():
        assert "in use" in refused("simulate", "--resume", "--workspace", empty_workspace)


def test_a_damaged_metadata_store_is_one_line(refused, empty_workspace: Path) -> None:
    (empty_workspace / "metadata.sqlite").write_bytes(b"no database")
    for command in ("run", "model"):
        assert "metadata.sqlite" in refused(command, "list", "--workspace", empty_workspace)


def test_a_folder_that_holds_other_things_is_not_taken_over(refused, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert "found other files" in refused("simulate", "--workspace", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_workspace_that_cannot_be_made_is_one_line(refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert str(tmp_path / "file") in refused("simulate", "--workspace", tmp_path / "file" / "below")
