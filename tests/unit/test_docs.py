"""The documentation says what is so: links lead somewhere, commands exist, settings are all there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedpipe.cli import app
from fedpipe.config import load_config
from fedpipe.config_reference import configuration_reference, undocumented_settings

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
        )
    }
    for line in re.findall(r"fedpipe ((?:simulate|predict|serve|run|model|config) .*)", page.read_text()):
        command = next((name for name in helps if line.startswith(name)), None)
        for option in re.findall(r"(--[a-z]+)", line) if command else ():
            assert option in helps[str(command)], line


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
