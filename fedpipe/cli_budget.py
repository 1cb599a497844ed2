"""`fedpipe budget`: what privacy has cost, what is left, and whether ledgers and certificates hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedpipe.cli_options import DEFAULT_WORKSPACE, FormatOption, OutputOption, SetOption, SpanOption
from fedpipe.cli_output import check_format, show_report
from fedpipe.cli_verify import schema, verify
from fedpipe.errors import ConfigError

app = typer.Typer(no_args_is_help=True, help="Privacy budgets, the ledgers that keep them, and certificates.")
app.command()(verify)
app.command()(schema)


@app.command()
def report(
    workspace: Annotated[
        Path | None,
        typer.Option(
            help="Where runs are kept: its ledger, and the models made. [default: fedpipe-workspace, unless "
            "--ledger is given]",
            show_default=False,
        ),
    ] = None,
    ledger: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE|URL", help="A ledger, instead of the workspace's. Repeatable."),
    ] = None,
    client: Annotated[
        str | None, typer.Option(help="Only this client's records: as in the ledger, or the end of its name.")
    ] = None,
    span: SpanOption = None,
    format_: FormatOption = "text",
    output: OutputOption = None,
) -> None:
    """Say what is spent and left, on what it was spent, and how long it will last."""
    from server.budgets import gather_report

    check_format(format_)
    where = workspace if ledger else workspace or DEFAULT_WORKSPACE
    made = gather_report(where, ledger or [], client=client, spans=span or [])
    show_report(made, format_, output)


@app.command()
def plan(
    config: Annotated[str, typer.Option(help="Name of a configuration, or a YAML file.")] = "complaints",
    set_: SetOption = None,
    runs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many runs the same records are to afford. [default: spans.last, or 1]",
            show_default=False,
        ),
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Of one run: short for --set privacy.epsilon=.")
    ] = None,
    delta: Annotated[float | None, typer.Option(help="Short for --set privacy.delta=.")] = None,
    budget_epsilon: Annotated[
        float | None, typer.Option(help="The lifetime budget of a record, at that delta.")
    ] = None,
    workspace: Annotated[Path | None, typer.Option(help="What the blocks of its ledger still allow.")] = None,
    ledger: Annotated[
        list[str] | None,
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
        str | None, typer.Option(metavar="PATH|URL", help="A ledger's file or database.")
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(help="The file of the ledger's key; beside a SQLite ledger it is found by itself."),
    ] = None,
    workspace: Annotated[
        Path, typer.Option(help="Whose ledger it is, without --ledger; its coordinator's is a witness.")
    ] = DEFAULT_WORKSPACE,
    head: Annotated[
        list[Path] | None,
        typer.Option("--head", help="A head of the ledger that somebody else keeps, as JSON. Repeatable."),
    ] = None,
    witness: Annotated[
        list[str] | None,
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
