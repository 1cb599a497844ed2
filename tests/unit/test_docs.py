"""The documentation says what is so: links lead somewhere, commands exist, settings are all there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import typer
from typer.testing import CliRunner

from fedpipe.cli import app
from fedpipe.config import load_config
from fedpipe.config.reference import configuration_reference, undocumented_settings

# How pages call fedpipe, and the arguments that each way stands for.
STARTS = {
    "fedpipe": [],
    ".venv/bin/fedpipe": [],
    "python -m fedpipe.simulate": ["simulate"],
    "python -m fedpipe": [],
}
ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_that_pages_name_exist(page: Path) -> None:
    helps = {
        command: CliRunner().invoke(app, [*command.split(), "--help"], terminal_width=200).output
        for command in (
            "simulate",
            "predict",
            "serve",
            "run show",
            "run list",
            "model list",
            "model show",
            "config show",
            "scenario weeks",
            "budget check",
            "budget verify",
            "budget report",
            "budget plan",
        )
    }
    for line in re.findall(
        r"fedpipe ((?:simulate|predict|serve|run|model|config|scenario|budget) .*)", page.read_text()
    ):
        command = next((name for name in helps if line.startswith(name)), None)
        for option in re.findall(r"(--[a-z]+)", line) if command else ():
            assert option in helps[str(command)], line


def _commands(page: str) -> list[list[str]]:
    """Returns the arguments of every call of fedpipe in the page's shell blocks."""
    found = []
    for block in re.findall(r"```(?:bash|sh|console)\n(.*?)```", page, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.strip().removeprefix("$ "), comments=True)
            text = " ".join(words)
            for start, prefix in STARTS.items():
                if text.startswith(start + " ") or text == start:
                    found.append([*prefix, *words[len(start.split()) :]])
                    break
    return found


def _refusal(arguments: list[str]) -> str:
    """Returns why fedpipe would refuse a command line, or nothing if it would run it."""
    try:
        _parse(arguments)
    except click.UsageError as error:
        return error.format_message()
    return ""


def _parse(arguments: list[str]) -> None:
    command: click.Command = typer.main.get_command(app)
    context = click.Context(command, info_name="fedpipe")
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        name, found, arguments = command.resolve_command(context, arguments)
        assert found is not None
        command, context = found, click.Context(found, info_name=name, parent=context)
    command.make_context("fedpipe", list(arguments))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_shell_blocks_parse(page: Path) -> None:
    for arguments in _commands(page.read_text()):
        assert _refusal(arguments) == "", f"fedpipe {' '.join(arguments)}"


def test_commands_are_found_and_wrong_ones_are_seen() -> None:
    page = "```bash\nfedpipe simulate --seed 3 \\\n  --json  # a comment\n  fedpipe run show last\n```\n"
    assert _commands(page) == [["simulate", "--seed", "3", "--json"], ["run", "show", "last"]]
    assert _commands("```bash\npython -m fedpipe.simulate --quiet\n```") == [["simulate", "--quiet"]]
    for wrong in (["simulat"], ["simulate", "--sed", "3"], ["model", "show"], ["simulate", "--seed", "x"]):
        assert _refusal(wrong) != ""


def test_configuration_page_is_what_the_settings_say() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page == configuration_reference(), "run: fedpipe config reference > docs/configuration.md"


def test_every_setting_is_documented() -> None:
    assert undocumented_settings() == []


def test_makefile_has_the_targets_that_the_readme_names() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z]+)", (ROOT / "README.md").read_text()):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_schema_in_the_data_page_is_valid(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "your-data.md").read_text()
    block = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert block is not None
    path = tmp_path / "mine.yaml"
    path.write_text(block[1])
    load_config(str(path))
