"""The `fedpipe` command. Each command imports what it needs when it runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from fedpipe import __version__
from fedpipe.cli_budget import app as budget_app
from fedpipe.cli_client import app as client_app
from fedpipe.cli_encrypted import app as encrypted_app
from fedpipe.cli_federation import app as federation_app
from fedpipe.entry import run_command
from fedpipe.simulate import simulate
from simulations.scenarios.command import app as scenario_app

WorkspaceOption = Annotated[Path, typer.Option("--workspace", help="Where everything is kept.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
DEFAULT_WORKSPACE = Path("fedpipe-workspace")

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
        typer.echo(json.dumps(row) if json_ else ",".join(_cell(value) for value in row.values()))


@app.command()
def serve(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    models: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Serve NAME/VERSION/ below it (or its own VERSION/) instead of a workspace's."),
    ] = None,
    model_name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="--models holds the versions of one model: its name."),
    ] = None,
    model_config_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Serve what a ModelServerConfig of TensorFlow Serving lists."),
    ] = None,
    versions: Annotated[str, typer.Option(help="latest, latest:N, all, or versions such as 1,3.")] = "latest",
    label: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="[MODEL:]LABEL=VERSION", help="Another name for a version. Repeatable."),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    rest_port: Annotated[int, typer.Option(min=-1, max=65535, help="0: any free one; -1: no REST.")] = 8501,
    grpc_port: Annotated[int, typer.Option(min=-1, max=65535, help="0: any free one; -1: no gRPC.")] = 8500,
    api_key_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Answer only those with a key of this file: lines NAME:SHA256."),
    ] = None,
    new_api_key: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="NAME", help="Print a fresh key and its line for the key file; serve nothing."),
    ] = None,
    tls_cert: Annotated[Optional[Path], typer.Option(help="PEM certificate chain.")] = None,  # noqa: UP045
    tls_key: Annotated[Optional[Path], typer.Option(help="Its PEM key.")] = None,  # noqa: UP045
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Let others reach it without TLS or without keys.")
    ] = False,
    max_batch_size: Annotated[
        int, typer.Option(min=1, help="Rows up to which concurrent requests are joined; 1: never.")
    ] = 256,
    max_request_bytes: Annotated[int, typer.Option(min=1024, help="Of one request.")] = 64 << 20,
    max_in_flight: Annotated[int, typer.Option(min=1, help="Requests answered at once.")] = 512,
    poll_seconds: Annotated[float, typer.Option(min=0.05, help="Between looks at the disk.")] = 1.0,
    timeout_seconds: Annotated[float, typer.Option(min=0.01, help="Until an answer.")] = 30.0,
    client_seconds: Annotated[float, typer.Option(min=0.1, help="That a client may be idle.")] = 30.0,
    drain_seconds: Annotated[float, typer.Option(min=0.0, help="For open requests, when stopped.")] = 30.0,
    threads: Annotated[int, typer.Option(min=0, help="Of TensorFlow; 0: one per core.")] = 0,
) -> None:
    """Serve models over TensorFlow Serving's REST and gRPC interfaces."""
    from server.prediction import command

    if new_api_key is not None:
        command.print_new_key(new_api_key)
        return
    command.serve(
        workspace=workspace,
        models=models,
        model_name=model_name,
        model_config_file=model_config_file,
        versions=versions,
        labels=label or [],
        host=host,
        rest_port=None if rest_port < 0 else rest_port,
        grpc_port=None if grpc_port < 0 else grpc_port,
        api_key_file=api_key_file,
        tls_cert=tls_cert,
        tls_key=tls_key,
        insecure=insecure,
        max_batch_rows=max_batch_size,
        max_request_bytes=max_request_bytes,
        max_in_flight=max_in_flight,
        poll_seconds=poll_seconds,
        timeout_seconds=timeout_seconds,
        client_seconds=client_seconds,
        drain_seconds=drain_seconds,
        num_threads=threads,
    )


@app.command()
def init(
    from_: Annotated[Path, typer.Option("--from", help="A file of records: CSV, JSON lines or Parquet.")],
    label: Annotated[str, typer.Option(help="The column to predict.")],
    client_column: Annotated[
        Optional[str],  # noqa: UP045  typer reads it at run time on Python 3.10
        typer.Option(help="The column that says which client holds a record; none: ten random clients."),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
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

    _show(list_runs(workspace), json_)


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
        _show(rows, False)


@model_app.command("list")
def model_list(workspace: WorkspaceOption = DEFAULT_WORKSPACE, json_: JsonOption = False) -> None:
    """List all registered versions, oldest first."""
    from server.paper_trail import list_models

    _show(list_models(workspace), json_)


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


def _show(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        typer.echo("none yet")
        return
    cells = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    for row in cells:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Runs the `fedpipe` command."""
    run_command(app, sys.argv[1:], name="fedpipe")
