"""The `fedpipe` command. Each command imports what it needs when it runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from fedpipe import __version__
from fedpipe.cli_budget import app as budget_app
from fedpipe.cli_client import app as client_app
from fedpipe.cli_encrypted import app as encrypted_app
from fedpipe.cli_federation import app as federation_app
from fedpipe.cli_options import DEFAULT_WORKSPACE, JsonOption, WorkspaceOption
from fedpipe.cli_output import cell, print_rows
from fedpipe.cli_serve import serve
from fedpipe.entry import run_command
from fedpipe.simulate import simulate
from simulations.scenarios.command import app as scenario_app

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they would show local variables, records among them
    help="Federated learning as a whole life cycle, with privacy budgets that anybody can recompute.",
)
run_app = typer.Typer(no_args_is_help=True, help="The paper trail of runs.")
model_app = typer.Typer(no_args_is_help=True, help="Registered model versions.")
config_app = typer.Typer(no_args_is_help=True, help="Configurations that come with fedpipe.")
app.command()(simulate)
app.command()(serve)
app.add_typer(run_app, name="run")
app.add_typer(model_app, name="model")
app.add_typer(config_app, name="config")
app.add_typer(scenario_app, name="scenario")
app.add_typer(federation_app, name="federation")
app.add_typer(client_app, name="client")
app.add_typer(budget_app, name="budget")
app.add_typer(encrypted_app, name="encrypted")


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"fedpipe {__version__}")
        raise typer.Exit


@app.command()
def predict(
    model: Annotated[
        str, typer.Option(metavar="NAME[:VERSION]", help="A deployed model; the newest by default.")
    ],
    input_: Annotated[Path, typer.Option("--input", help="Records to predict: CSV, JSON lines or Parquet.")],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    json_: JsonOption = False,
) -> None:
    """Print a deployed model's predictions for a file of records."""
    from server.predictions import predict_file

    for row in predict_file(workspace, model, input_):
        typer.echo(json.dumps(row) if json_ else ",".join(cell(value) for value in row.values()))


@app.command()
def init(
    from_: Annotated[Path, typer.Option("--from", help="A file of records: CSV, JSON lines or Parquet.")],
    label: Annotated[str, typer.Option(help="The column to predict.")],
    client_column: Annotated[
        str | None,
        typer.Option(help="The column that says which client holds a record; none: ten random clients."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Where to write the configuration. [default: NAME.yaml]", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a commented configuration for your own records; it runs unchanged."""
    from fedpipe.config import load_config
    from fedpipe.config.draft import draft_config
    from fedpipe.errors import ConfigError
    from fedpipe.files import write_text

    target = output or Path(f"{from_.stem}.yaml")
    if target.exists() and not force:
        raise ConfigError(f"Expected no file at {target}, found one: choose --output, or give --force.")
    write_text(
        target, draft_config(from_, label=label, client_column=client_column, target=str(target)), mode=0o644
    )
    load_config(str(target.absolute()))
    typer.echo(f"Wrote {target}. Read it, then: fedpipe simulate --config ./{target} --data {from_}")


@app.command()
def doctor(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    deep: Annotated[bool, typer.Option("--deep", help="Import TensorFlow too: takes seconds.")] = False,
    json_: JsonOption = False,
) -> None:
    """Say what this machine can run, what is missing, and the command that mends it."""
    from dataclasses import asdict

    from rich.console import Console

    from fedpipe.doctor import examine, ready
    from fedpipe.terminal import print_checks

    checks = examine(workspace, deep=deep)
    if json_:
        typer.echo(
            json.dumps({"ready": ready(checks), "checks": [asdict(check) for check in checks]}, indent=2)
        )
    else:
        print_checks(checks, Console())
    raise typer.Exit(0 if ready(checks) else 2)


@run_app.command("list")
def run_list(workspace: WorkspaceOption = DEFAULT_WORKSPACE, json_: JsonOption = False) -> None:
    """List all runs, oldest first."""
    from server.paper_trail import list_runs

    print_rows(list_runs(workspace), as_json=json_)


@run_app.command("show")
def run_show(
    run_id: Annotated[
        str, typer.Argument(help="As printed by `fedpipe run list`; `last` is the newest.")
    ] = "last",
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    json_: JsonOption = False,
) -> None:
    """Show a run's steps, how long each took, and what they made."""
    from server.paper_trail import show_run

    run = show_run(workspace, run_id)
    if json_:
        typer.echo(json.dumps(run, indent=2))
        return
    steps, artifacts = run.pop("steps"), run.pop("artifacts")
    for name, value in run.items():
        typer.echo(f"{name:<12} {value}")
    for rows in (steps, artifacts):
        typer.echo()
        print_rows(rows, as_json=False)


@model_app.command("list")
def model_list(workspace: WorkspaceOption = DEFAULT_WORKSPACE, json_: JsonOption = False) -> None:
    """List all registered versions, oldest first."""
    from server.paper_trail import list_models

    print_rows(list_models(workspace), as_json=json_)


@model_app.command("show")
def model_show(
    model: Annotated[str, typer.Argument(metavar="NAME[:VERSION]", help="The newest version by default.")],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
) -> None:
    """Show a version: privacy, metrics, columns and files, as JSON."""
    from server.paper_trail import show_model

    typer.echo(json.dumps(show_model(workspace, model), indent=2))


@model_app.command("revoke")
def model_revoke(
    model: Annotated[str, typer.Argument(metavar="NAME[:VERSION]", help="The newest version by default.")],
    reason: Annotated[str, typer.Option(help="Why; shown to whoever asks for it.")],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
) -> None:
    """Revoke a version for ever: encrypted prediction stops answering with it."""
    from server.encrypted.standing import revoke

    found = revoke(workspace, model, reason)
    typer.echo(f"revoked {found.name}:{found.version}")


@config_app.command("list")
def config_list() -> None:
    """List the configurations that come with fedpipe."""
    from fedpipe.config import config_names, load_config

    for name in config_names():
        typer.echo(f"{name:<16} {load_config(name).description}")


@config_app.command("show")
def config_show(name: Annotated[str, typer.Argument(help="A configuration's name or file.")]) -> None:
    """Print a configuration's file: a starting point for your own."""
    from fedpipe.config import find_config

    typer.echo(find_config(name).read_text(encoding="utf-8"), nl=False)


@config_app.command("reference")
def config_reference() -> None:
    """Print every setting with its type, default and meaning, as Markdown."""
    from fedpipe.config.reference import configuration_reference

    typer.echo(configuration_reference(), nl=False)


def main() -> None:
    """Runs the `fedpipe` command."""
    run_command(app, sys.argv[1:], name="fedpipe")
