"""`fedpipe federation`: what an operator does. Each command imports what it needs when it runs."""

from __future__ import annotations

import datetime as dt
import json
import logging
import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from fedpipe.cli_options import JsonOption, MetricsOption, QuietOption, ResultJsonOption, SetOption
from fedpipe.cli_output import print_rows, print_values

DirOption = Annotated[Path, typer.Option("--dir", help="The federation's directory.")]
DEFAULT_DIR = Path("fedpipe-federation")

app = typer.Typer(no_args_is_help=True, help="Operate a federation of real data owners.")


@app.command("init")
def init(
    name: Annotated[str, typer.Option(help="The federation's name, which members see.")],
    address: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where nodes reach the server.")],
    directory: DirOption = DEFAULT_DIR,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to listen. [default: loopback only]")
    ] = "",
    host: Annotated[
        list[str] | None,
        typer.Option(help="A further name or address for the server certificate. Repeatable."),
    ] = None,
) -> None:
    """Make a federation: its name, authority, server certificate and signing key."""
    from fedpipe.ledger import utc_now
    from server.federation.home import FederationFile, FederationHome

    given = {"name": name, "address": address, "listen": listen, "hosts": tuple(host or ())}
    settings = FederationFile.checked(given, "the command line")
    home = FederationHome.create(directory, settings, utc_now())
    typer.echo(f"Made federation {name} in {home.root}.")
    typer.echo(f"Next: fedpipe federation up --dir {directory}")


@app.command("up")
def up(
    directory: DirOption = DEFAULT_DIR,
    metrics: MetricsOption = "",
) -> None:
    """Serve the federation until Ctrl-C or SIGTERM. The log goes to stderr and to log.jsonl."""
    from server.federation.daemon import serve

    serve(_home(directory), metrics=metrics)


@app.command("invite")
def invite(
    name: Annotated[str, typer.Argument(help="The data owner's name in this federation.")],
    directory: DirOption = DEFAULT_DIR,
    output: Annotated[
        Path | None,
        typer.Option(help="Where to write it. [default: NAME.invitation.json]", show_default=False),
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=365, help="How long it can be used.")] = 14,
) -> None:
    """Write an invitation: hand it to the data owner over a channel that others cannot read."""
    from pydantic import ValidationError

    from fedpipe.errors import ConfigError
    from fedpipe.files import write_text
    from fedpipe.ledger import utc_now
    from server.federation import members

    target = output or Path(f"{name}.invitation.json")
    try:
        invitation = members.invite(_home(directory), name, valid=dt.timedelta(days=days), now=utc_now())
    except ValidationError as error:
        raise ConfigError(
            f"Expected a name of letters, digits, '.', '_' and '-', found {name!r}: choose another."
        ) from error
    write_text(target.absolute(), invitation.model_dump_json(indent=2) + "\n")
    typer.echo(f"Wrote {target}. {name} runs: fedpipe client enroll {target.name}")


@app.command("admit")
def admit(
    request: Annotated[Path, typer.Argument(help="The file that fedpipe client enroll wrote.")],
    directory: DirOption = DEFAULT_DIR,
) -> None:
    """Make the sender of a request a member."""
    from fedpipe.federation.enrolment import JoinRequest, parse_file
    from fedpipe.ledger import utc_now
    from server.federation import members

    asked = parse_file(request.read_bytes(), JoinRequest, "a request to join")
    members.admit(_home(directory), asked, now=utc_now())
    typer.echo(f"Admitted {asked.client}.")


@app.command("remove")
def remove(
    name: Annotated[str, typer.Argument(help="A member, or somebody invited.")],
    directory: DirOption = DEFAULT_DIR,
) -> None:
    """Refuse a member's key from now on, or withdraw an invitation."""
    from server.federation import members

    members.remove(_home(directory), name)
    typer.echo(f"Removed {name}.")


@app.command("nodes")
def nodes(
    directory: DirOption = DEFAULT_DIR,
    json_: JsonOption = False,
    keys: Annotated[
        bool, typer.Option("--keys", help="Print NAME=PUBLIC of ledgers, for budget verify --client-key.")
    ] = False,
) -> None:
    """List members and invitations, and who is connected."""
    from server.federation.members import read_members
    from server.federation.status import list_members

    home = _home(directory)
    if keys:
        for name, member in sorted(read_members(home).members.items()):
            typer.echo(f"{name}={member.ledger_key}")
        return
    print_rows(list_members(home), as_json=json_)


@app.command("status")
def status(directory: DirOption = DEFAULT_DIR, json_: JsonOption = False) -> None:
    """Say whether the federation is up, who is connected, and how the last run stands."""
    from server.federation.status import describe

    print_values(describe(_home(directory)), as_json=json_)


@app.command("run")
def run(
    config: Annotated[str | None, typer.Option(help="Name of a configuration, or a YAML file.")] = None,
    directory: DirOption = DEFAULT_DIR,
    set_: SetOption = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**31 - 1, help="Fixes initial weights; never noise or sampling.")
    ] = 0,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Ask and pay for everything anew; go on with no earlier run.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the last run, or show what it came to.")
    ] = False,
    json_: ResultJsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run one full cycle over the members; the same command again goes on with an interrupted one."""
    from rich.console import Console

    from fedpipe.config import load_config
    from fedpipe.errors import ConfigError
    from fedpipe.ledger import utc_now
    from fedpipe.pipeline import SilentProgress
    from fedpipe.terminal import print_summary, terminal_progress
    from server.federation import runs

    if resume == (config is not None):
        raise ConfigError("Expected either --config or --resume.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.basicConfig(format="%(message)s")  # before a library chooses a form of its own
    home = _home(directory)
    settings = load_config(config, set_ or []) if config is not None else None
    console = Console(stderr=True, quiet=quiet)
    with home.workspace().lock(), terminal_progress(console) as shown:
        progress = SilentProgress() if quiet else shown
        if settings is None:
            summary = runs.resume(home, progress=progress)
        else:
            summary = runs.run(home, settings, seed=seed, fresh=fresh, progress=progress, now=utc_now())
    if json_:
        typer.echo(json.dumps(summary.model_dump(mode="json")))
    else:
        print_summary(Console(quiet=quiet), summary)


@app.command("schedule")
def schedule(
    directory: DirOption = DEFAULT_DIR,
    config: Annotated[str, typer.Option(help="Name of a configuration, or a YAML file.")] = "",
    set_: SetOption = None,
    cron: Annotated[str | None, typer.Option(help="When to run: five cron fields, in UTC.")] = None,
    new_spans: Annotated[
        int | None, typer.Option(min=1, help="Or: run once so many more spans are over.")
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="Run no more by itself.")] = False,
) -> None:
    """Show or change when `up` retrains by itself; one run at a time."""
    from fedpipe.ledger import utc_now
    from server.federation import schedule as schedules

    home = _home(directory)
    if off:
        (home.root / schedules.SCHEDULE).unlink(missing_ok=True)
    elif config:
        path = str(Path(config).absolute()) if config.endswith((".yaml", ".yml")) else config
        made = schedules.make_schedule(
            config=path, set=tuple(set_ or ()), cron=cron, new_spans=new_spans, since=utc_now()
        )
        schedules.write_schedule(home, made)
    found = schedules.read_schedule(home)
    typer.echo(found.model_dump_json(indent=2, exclude_none=True) if found else "No schedule.")


def _home(directory: Path) -> Any:
    from server.federation.home import FederationHome

    return FederationHome(directory)
