"""`fedpipe scenario`: stories over many runs. What is heavy is imported when a story begins."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedpipe.cli_options import ResultJsonOption, WorkspaceOption

app = typer.Typer(no_args_is_help=True, help="Longer stories over simulated owners, unattended.")


@app.callback()
def _scenarios() -> None:
    """Longer stories over simulated owners, unattended."""


@app.command()
def weeks(
    weeks: Annotated[
        int | None, typer.Option(min=1, help="How many weeks. [default: 52]", show_default=False)
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Weeks that a run uses, and runs that a block affords. [default: 4]",
            show_default=False,
        ),
    ] = None,
    clients: Annotated[
        int | None, typer.Option(min=2, help="How many data owners. [default: 6]", show_default=False)
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Fixes records and initial weights. [default: 0]", show_default=False),
    ] = None,
    on_label_shift: Annotated[
        str | None, typer.Option(help="warn, stop, ignore, reweight or resample.", show_default=False)
    ] = None,
    story: Annotated[
        Path | None,
        typer.Option(help="A scenario of your own, in YAML. [default: a year]", show_default=False),
    ] = None,
    workspace: WorkspaceOption = Path("fedpipe-scenario"),
    json_: ResultJsonOption = False,
) -> None:
    """Retrain every week for a year, with drift and mishaps; the same command goes on where it was."""
    from simulations.scenarios.settings import YEAR, load_scenario
    from simulations.scenarios.story import tell

    scenario = load_scenario(
        story or YEAR,
        weeks=weeks,
        window=window,
        num_clients=clients,
        seed=seed,
        on_label_shift=on_label_shift,
    )
    tell(scenario, workspace, as_json=json_)
