"""What operators and owners deploy says commands that exist."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest
import typer
import yaml

from fedpipe.cli import app
from fedpipe.federation.monitoring import _is_loopback

ROOT = Path(__file__).parents[2]
UNITS = sorted(ROOT.glob("*/deploy/*.service"))
COMPOSED = sorted(ROOT.glob("*/deploy/compose.yaml"))


def parse(words: list[str]) -> click.Context:
    """Parses a command without running it; an option that does not exist raises."""
    command: click.Command = typer.main.get_command(app)
    context = click.Context(command)
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, words
        command, words = found, words[1:]
    return command.make_context(command.name, words, parent=context)


def commands(unit: Path) -> list[list[str]]:
    line = next(line for line in unit.read_text().splitlines() if line.startswith("ExecStart="))
    return [shlex.split(line.partition("=")[2])[1:]]


def test_there_is_a_unit_and_a_compose_file_for_either_side() -> None:
    for found in (UNITS, COMPOSED):
        assert [path.parts[-3] for path in found] == ["clients", "server"]


@pytest.mark.parametrize("path", [*UNITS, *COMPOSED], ids=str)
def test_what_is_started_is_a_command_with_figures_on_loopback(path: Path) -> None:
    if path.suffix == ".service":
        found = commands(path)
    else:
        found = [service["command"] for service in yaml.safe_load(path.read_text())["services"].values()]
    for words in found:
        host = parse(words).params["metrics"].rpartition(":")[0]
        assert _is_loopback(host)


@pytest.mark.parametrize("unit", UNITS, ids=str)
def test_systemd_finds_nothing_wrong_with_a_unit(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/opt/fedpipe/.venv/bin/fedpipe", "/bin/true"))
    found = subprocess.run(["systemd-analyze", "verify", copy], check=False, capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")
