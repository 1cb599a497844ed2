"""`fedpipe budget`: what privacy has cost, what is left, and what it allows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from fedpipe.errors import ConfigError

if TYPE_CHECKING:
    from fedpipe.reports.budget_facts import BudgetReport

FORMATS = ("text", "json", "html")
DEFAULT_WORKSPACE = Path("fedpipe-workspace")

app = typer.Typer(no_args_is_help=True, help="Privacy budgets: what was spent, what is left, what it allows.")


@app.callback()
def _budget() -> None:
    """Privacy budgets: what was spent, what is left, what it allows."""


@app.command()
def report(
    workspace: Annotated[
        Optional[Path],  # noqa: UP045  typer reads it at run time on Python 3.10
        typer.Option(
            help="Where runs are kept: its ledger, and the models made. [default: fedpipe-workspace, unless "
            "--ledger is given]",
            show_default=False,
        ),
    ] = None,
    ledger: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="FILE|URL", help="A ledger, instead of the workspace's. Repeatable."),
    ] = None,
    client: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Only this client's records: as in the ledger, or the end of its name."),
    ] = None,
    span: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Only records of this span. Repeatable."),
    ] = None,
    format_: Annotated[str, typer.Option("--format", help="text, json or html.")] = "text",
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Write it there instead of on stdout."),
    ] = None,
) -> None:
    """Say what is spent and left, on what it was spent, and how long it will last."""
    from server.budgets import gather_report

    if format_ not in FORMATS:
        raise ConfigError(f"Expected --format {', '.join(FORMATS)}, found {format_!r}.")
    where = workspace if ledger else workspace or DEFAULT_WORKSPACE
    made = gather_report(where, ledger or [], client=client, spans=span or [])
    text = render_report(made, format_, to_terminal=output is None)
    if output is None:
        typer.echo(text, nl=False)
    else:
        from fedpipe.files import write_text

        write_text(output, text)
        typer.echo(f"Wrote {output}.", err=True)


def render_report(made: BudgetReport, format_: str, *, to_terminal: bool = True) -> str:
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
