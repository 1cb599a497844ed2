"""`fedpipe budget`: what privacy has cost, what is left, and whether ledgers and certificates hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from fedpipe.cli_verify import schema, verify
from fedpipe.errors import ConfigError

if TYPE_CHECKING:
    from fedpipe.reports.budget_facts import BudgetReport

FORMATS = ("text", "json", "html")
DEFAULT_WORKSPACE = Path("fedpipe-workspace")

app = typer.Typer(no_args_is_help=True, help="Privacy budgets, the ledgers that keep them, and certificates.")
app.command()(verify)
app.command()(schema)


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

    check_format(format_)
    where = workspace if ledger else workspace or DEFAULT_WORKSPACE
    made = gather_report(where, ledger or [], client=client, spans=span or [])
    show_report(made, format_, output)


def check_format(format_: str) -> None:
    """Raises ConfigError unless a budget report has such a form."""
    if format_ not in FORMATS:
        raise ConfigError(f"Expected --format {', '.join(FORMATS)}, found {format_!r}.")


def show_report(made: BudgetReport, format_: str, output: Path | None) -> None:
    """Prints a budget report, or writes it to `output`."""
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


@app.command()
def plan(
    config: Annotated[str, typer.Option(help="Name of a configuration, or a YAML file.")] = "complaints",
    set_: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--set", metavar="KEY.PATH=VALUE", help="Overrides a setting. Repeatable."),
    ] = None,
    runs: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=1,
            help="How many runs the same records are to afford. [default: spans.last, or 1]",
            show_default=False,
        ),
    ] = None,
    epsilon: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Of one run: short for --set privacy.epsilon=."),
    ] = None,
    delta: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Short for --set privacy.delta=."),
    ] = None,
    budget_epsilon: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="The lifetime budget of a record, at that delta."),
    ] = None,
    workspace: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="What the blocks of its ledger still allow."),
    ] = None,
    ledger: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="FILE|URL", help="What the blocks of a ledger still allow. Repeatable."),
    ] = None,
    format_: Annotated[str, typer.Option("--format", help="text or json.")] = "text",
) -> None:
    """Say how many retrainings a budget allows, or which noise allows so many."""
    from fedpipe.config import load_config
    from server.budget_plan import make_budget_plan, plan_lines
    from server.budgets import read_blocks

    if format_ not in ("text", "json"):
        raise ConfigError(f"Expected --format text or json, found {format_!r}.")
    if budget_epsilon is not None and (workspace or ledger):
        raise ConfigError("Expected --budget-epsilon or a ledger, found both: a ledger has its own budgets.")
    short = {"privacy.epsilon": epsilon, "privacy.delta": delta}
    overrides = [f"{key}={value}" for key, value in short.items() if value is not None]
    loaded = load_config(config, [*(set_ or []), *overrides])
    made = make_budget_plan(
        loaded,
        num_runs=runs,
        budget_epsilon=budget_epsilon,
        blocks=read_blocks(loaded, workspace, ledger or []),
    )
    typer.echo(made.model_dump_json(indent=2) if format_ == "json" else "\n".join(plan_lines(made)))


@app.command()
def check(
    ledger: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="PATH|URL", help="A ledger's file or database."),
    ] = None,
    key: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The file of the ledger's key; beside a SQLite ledger it is found by itself."),
    ] = None,
    workspace: Annotated[
        Path, typer.Option(help="Whose ledger it is, without --ledger; its coordinator's is a witness.")
    ] = DEFAULT_WORKSPACE,
    head: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option("--head", help="A head of the ledger that somebody else keeps, as JSON. Repeatable."),
    ] = None,
    witness: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            metavar="PATH|URL",
            help="Another's ledger, which keeps heads of this one: a coordinator's, or a node's. Repeatable.",
        ),
    ] = None,
) -> None:
    """Replay a ledger's chain and compare everything with it; exit code 2 if anything is wrong."""
    from fedpipe.ledger.check import check_ledger, keeps_heads
    from fedpipe.ledger.entries import read_head
    from fedpipe.ledger.stores import LedgerStore

    store = LedgerStore.at(ledger or workspace / "ledger.sqlite", key=key)
    coordinator = workspace / "witness.sqlite"
    witnesses = [*(witness or ()), *([coordinator] if ledger is None and keeps_heads(coordinator) else ())]
    found = check_ledger(store, [read_head(path) for path in head or ()], witnesses=witnesses)
    for line in (*found.gaps, *found.findings):
        typer.echo(line)
    if found.findings:
        raise typer.Exit(2)
    typer.echo(f"{store}: {found.num_entries} entries, all in order")
