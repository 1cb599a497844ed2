"""`fedpipe budget`: what records may spend, have spent, and whether the ledger can be believed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from fedpipe.cli_verify import schema, verify

app = typer.Typer(no_args_is_help=True, help="Privacy budgets, the ledgers that keep them, and certificates.")
app.command()(verify)
app.command()(schema)

LedgerOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--ledger", metavar="PATH|URL", help="A ledger's file or database."),
]
KeyOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--key", help="The file of the ledger's key; beside a SQLite ledger it is found by itself."),
]
WorkspaceOption = Annotated[Path, typer.Option("--workspace", help="Whose ledger it is, without --ledger.")]


@app.command()
def check(
    ledger: LedgerOption = None,
    key: KeyOption = None,
    workspace: WorkspaceOption = Path("fedpipe-workspace"),
    head: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option("--head", help="A head of the ledger that somebody else keeps, as JSON. Repeatable."),
    ] = None,
) -> None:
    """Replay a ledger's chain and compare everything with it; exit code 2 if anything is wrong."""
    from fedpipe.ledger.check import check_ledger
    from fedpipe.ledger.entries import read_head
    from fedpipe.ledger.stores import LedgerStore

    store = LedgerStore.at(ledger or workspace / "ledger.sqlite", key=key)
    found = check_ledger(store, [read_head(path) for path in head or ()])
    for line in (*found.gaps, *found.findings):
        typer.echo(line)
    if found.findings:
        raise typer.Exit(2)
    typer.echo(f"{store}: {found.num_entries} entries, all in order")
