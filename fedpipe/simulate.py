"""`python -m fedpipe.simulate`: the whole cycle on this machine, over simulated clients."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedpipe.cli_options import (
    DEFAULT_WORKSPACE,
    QuietOption,
    ResultJsonOption,
    SetOption,
    WorkspaceOption,
)
from fedpipe.entry import own_packages_first, run_command
from fedpipe.errors import ConfigError

if TYPE_CHECKING:
    from simulations.request import SimulationRequest

DEFAULT_CONFIG = "complaints"


def simulate(
    config: Annotated[
        str | None,
        typer.Option(
            help=f"Name of a configuration, or a YAML file. [default: {DEFAULT_CONFIG}]", show_default=False
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="A file, a folder or a database URL#QUERY, instead of the configuration's data. Repeatable."
        ),
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    set_: SetOption = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=2**31 - 1,
            help="Fixes population, split and initial weights; never noise or sampling. [default: 0]",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="What runs the Flower apps: in-process or ray (several processors).", show_default=False
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the workspace's last run, or show what it came to.")
    ] = False,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh", help="Ask and pay for everything anew: no interrupted run, no earlier result."
        ),
    ] = False,
    json_: ResultJsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train, evaluate and deploy a model across simulated data owners, with a privacy certificate."""
    if resume and fresh:
        raise ConfigError("Expected --resume or --fresh, found both: leave one out.")
    given = any(value is not None for value in (config, data, set_, seed))
    request = None
    if given or not resume:
        request = _request(config or DEFAULT_CONFIG, data or [], set_ or [], seed or 0, engine)
    _run(workspace, request, resume=resume, fresh=fresh, engine=engine, as_json=json_, quiet=quiet)


def _request(
    name: str, data: list[str], overrides: list[str], seed: int, engine: str | None
) -> SimulationRequest:
    from fedpipe.config import load_config
    from simulations.population import check_sources
    from simulations.request import SimulationRequest

    engines = [f"federation.engine={engine}"] if engine is not None else []
    config = load_config(name, [*overrides, *engines])
    check_sources(config, data)
    return SimulationRequest.make(config, data, seed)


def _run(
    workspace: Path,
    request: SimulationRequest | None,
    *,
    resume: bool,
    fresh: bool,
    engine: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    from rich.console import Console

    from fedpipe.ledger import utc_now
    from fedpipe.pipeline import SilentProgress, Workspace
    from fedpipe.terminal import print_summary, terminal_progress
    from simulations import run

    console = Console(stderr=True, quiet=quiet)
    place = Workspace.open_existing(workspace) if resume else Workspace(workspace)
    with place.lock(), terminal_progress(console) as shown:
        progress = SilentProgress() if quiet else shown
        if resume or request is None:
            summary = run.resume(place, request, progress=progress, engine=engine)
        else:
            console.print("Preparing clients and loading TensorFlow ...", highlight=False)
            summary = run.simulate(place, request, progress=progress, now=utc_now(), fresh=fresh)
    if as_json:
        print(json.dumps(summary.model_dump(mode="json")))  # noqa: T201  the result itself
    else:
        print_summary(Console(quiet=quiet), summary)


def main() -> None:
    """Runs the command line of `python -m fedpipe.simulate`."""
    # Typer's own tracebacks show local variables: records, keys and updates among them.
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(simulate)
    run_command(app, sys.argv[1:], name="python -m fedpipe.simulate")


if __name__ == "__main__":
    own_packages_first()
    main()
