"""`fedpipe client`: what a data owner does. Each command imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fedpipe.cli_options import FormatOption, JsonOption, MetricsOption, OutputOption, SpanOption
from fedpipe.cli_output import check_format, print_values, show_report

HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home", help="The node's directory. [default: the one below ~/.fedpipe]", show_default=False
    ),
]

app = typer.Typer(no_args_is_help=True, help="Take part in a federation with your own records.")


@app.command("enroll")
def enroll(
    invitation: Annotated[Path, typer.Argument(help="The file that the operator sent.")],
    home: Annotated[
        Path | None,
        typer.Option(
            help="Where the node keeps things. [default: ~/.fedpipe/FEDERATION]", show_default=False
        ),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            help="Directory of the data store's ledger: name the same for every federation that uses these "
            "records. [default: the node's]",
            show_default=False,
        ),
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="A site policy to begin with.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Where to write the request. [default: NAME.request.json]", show_default=False),
    ] = None,
) -> None:
    """Make this node's key, here, and write the request that the operator admits."""
    from clients.home import DEFAULT_PARENT, NodeHome
    from clients.site_policy import SitePolicy, read_policy
    from fedpipe.federation.enrolment import Invitation, parse_file
    from fedpipe.files import write_text

    invited = parse_file(invitation.read_bytes(), Invitation, "an invitation")
    place = home or DEFAULT_PARENT / invited.federation
    begin = read_policy(policy) if policy else SitePolicy.model_validate({})
    node, request = NodeHome.create(place, invited, store=store, policy=begin)
    target = output or Path(f"{invited.client}.request.json")
    write_text(target.absolute(), request.model_dump_json(indent=2) + "\n")
    typer.echo(f"Wrote {target}: send it to the operator. It holds no secret.")
    typer.echo(f"Read {node.policy_path}, then: fedpipe client join --home {node.root} --data FILE_OR_FOLDER")


@app.command("join")
def join(
    data: Annotated[list[str], typer.Option(help="A file, a folder or a database URL#QUERY. Repeatable.")],
    home: HomeOption = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN=NAME", help="What your exports call a column of the schema. Repeatable."
        ),
    ] = None,
    metrics: MetricsOption = "",
) -> None:
    """Take part until Ctrl-C or SIGTERM. The log goes to stderr and to log.jsonl."""
    from clients.join import join as serve

    serve(_home(home), data, names=_names(column or []), metrics=metrics)


@app.command("status")
def status(home: HomeOption = None, json_: JsonOption = False) -> None:
    """Say whether the node runs and is connected, and which runs asked."""
    node = _home(home)
    membership, found = node.membership, node.status()
    values: dict[str, Any] = {
        "federation": membership.federation,
        "client": membership.client,
        "server": membership.address,
        "state": found.state if found else "not running",
        "since": found.since.isoformat(timespec="seconds") if found else None,
        "paused": node.is_paused,
        "waiting": [each.run_id for each in node.notes() if not each.approved and not each.claimed],
    }
    print_values(values, as_json=json_)


@app.command("budget")
def budget(
    home: HomeOption = None,
    span: SpanOption = None,
    format_: FormatOption = "text",
    output: OutputOption = None,
) -> None:
    """Say what your own ledger has spent and has left, on what, and how long it will last."""
    from fedpipe.reports.budget_reading import read_report

    check_format(format_)
    show_report(read_report([_home(home).ledger_path], spans=span or []), format_, output)


@app.command("approve")
def approve(
    run: Annotated[str, typer.Argument(help="The run, as fedpipe client status names it.")],
    home: HomeOption = None,
) -> None:
    """Let a run use the records, where the site policy asks for approval."""
    from fedpipe.errors import FederationError, nearest

    node = _home(home)
    known = [each.run_id for each in node.notes()]
    if run not in known:
        hint = nearest(run, known) if known else "None has asked."
        raise FederationError(f"Expected a run that asked this node, found {run!r}. {hint}")
    node.keep_note(node.note(run).model_copy(update={"approved": True}))
    typer.echo(f"Approved {run}.")


@app.command("pause")
def pause(home: HomeOption = None) -> None:
    """Answer nobody until `resume`; what is being worked on is finished."""
    _home(home).set_paused(True)
    typer.echo("Paused.")


@app.command("resume")
def resume(home: HomeOption = None) -> None:
    """Answer again."""
    _home(home).set_paused(False)
    typer.echo("Goes on.")


@app.command("leave")
def leave(home: HomeOption = None) -> None:
    """Forget the membership and its key. The ledger stays: what was spent stays spent."""
    node = _home(home)
    membership = node.membership
    node.leave()
    typer.echo(
        f"Left {membership.federation}. Ask its operator for: fedpipe federation remove {membership.client}"
    )


def _names(pairs: list[str]) -> dict[str, str]:
    from fedpipe.encoding.text import normalize_name
    from fedpipe.errors import ConfigError

    names = {}
    for pair in pairs:
        column, equals, name = pair.partition("=")
        if not (equals and normalize_name(column) and normalize_name(name)):
            raise ConfigError(
                f"Expected --column COLUMN=NAME, such as complaint_id=Vorgangsnummer, found {pair!r}."
            )
        names[normalize_name(column)] = name
    return names


def _home(home: Path | None) -> Any:
    from clients.home import NodeHome, find_home

    return NodeHome(find_home(home))
