"""Tables, values and budget reports on stdout, for people or as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fedpipe.errors import ConfigError

if TYPE_CHECKING:
    from fedpipe.reports.budget_facts import BudgetReport

REPORT_FORMATS = ("text", "json", "html")


def print_rows(rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Prints a table whose columns are those of the first row, or all rows as JSON."""
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        typer.echo("none yet")
        return
    cells = [list(rows[0]), *([cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    for row in cells:
        typer.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def cell(value: Any) -> str:
    """Returns a value as a table shows it."""
    if value is None or value == []:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def print_values(values: Mapping[str, Any], *, as_json: bool) -> None:
    """Prints a line for each value, or all as one JSON object."""
    if as_json:
        typer.echo(json.dumps(values, indent=2))
        return
    for name, value in values.items():
        typer.echo(f"{name:<12} {cell(value)}")


def check_format(format_: str) -> None:
    """Raises ConfigError unless a budget report has such a form."""
    if format_ not in REPORT_FORMATS:
        raise ConfigError(f"Expected --format {', '.join(REPORT_FORMATS)}, found {format_!r}.")


def show_report(made: BudgetReport, format_: str, output: Path | None) -> None:
    """Prints a budget report, or writes it to `output`."""
    text = _render(made, format_, to_terminal=output is None)
    if output is None:
        typer.echo(text, nl=False)
    else:
        from fedpipe.files import write_text

        write_text(output, text)
        typer.echo(f"Wrote {output}.", err=True)


def _render(made: BudgetReport, format_: str, *, to_terminal: bool = True) -> str:
    """Returns a budget report as text, JSON or HTML."""
    if format_ == "json":
        return made.model_dump_json(indent=2) + "\n"
    if format_ == "html":
        from fedpipe.reports.budget_page import render_page

        return render_page(made)
    from rich.console import Console

    from fedpipe.reports.budget_text import print_report

    console = Console() if to_terminal else Console(width=80, color_system=None)
    with console.capture() as captured:
        print_report(made, console)
    return captured.get()
