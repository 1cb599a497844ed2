"""`fedpipe encrypted`: predictions on rows that nobody else sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fedpipe.cli_options import DEFAULT_WORKSPACE, TlsCertOption, TlsKeyOption, WorkspaceOption
from fedpipe.encrypted.command import predict

HomeOption = Annotated[
    Path | None,
    typer.Option(help="Where the parties' environment lives, instead of ~/.cache/fedpipe/encrypted."),
]

DeploymentOption = Annotated[
    Path | None,
    typer.Option(help="Parties on the hosts of this file instead of here; see docs/encrypted.md."),
]
TunnelCertOption = Annotated[
    Path | None,
    typer.Option(help="PEM certificate of the name 'coordinator' for the parties' hosts."),
]
TunnelKeyOption = Annotated[Path | None, typer.Option(help="Its PEM key.")]
TunnelAuthorityOption = Annotated[
    Path | None,
    typer.Option(help="PEM of who signed the hosts' certificates."),
]

app = typer.Typer(no_args_is_help=True, help="Predictions on rows that nobody else sees.")
app.command()(predict)


@app.command()
def install(
    home: HomeOption = None,
    python: Annotated[
        Path | None, typer.Option(help="A CPython 3.8, 3.9 or 3.10, instead of searching for one.")
    ] = None,
) -> None:
    """Make the environment in which the three parties compute; the own one stays as it is."""
    from fedpipe.encrypted import provisioning

    provisioning.install(home or provisioning.default_home(), typer.echo, python=python)


@app.command()
def up(
    model: Annotated[
        str,
        typer.Option(metavar="NAME[:VERSION]", help="A registered model; without VERSION always the newest."),
    ],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    host: Annotated[str, typer.Option(help="The address of front end and parties.")] = "127.0.0.1",
    public_host: Annotated[
        str | None, typer.Option(help="The name by which clients reach it, if another.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the front end; 0: any free one.")] = 8601,
    party_ports: Annotated[
        str, typer.Option(metavar="A,A,B,B,C,C", help="Two for each party, used by turns; by default any.")
    ] = "",
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="Answer only those with a key of this file; see 'fedpipe serve --new-api-key'."),
    ] = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    operator_sees_rows: Annotated[
        bool, typer.Option("--operator-sees-rows", help="Admit that one operator runs all three parties.")
    ] = False,
    unisolated: Annotated[
        bool,
        typer.Option("--unisolated", help="Leave the parties' ports open to every user of this machine."),
    ] = False,
    accept_raw_rows: Annotated[
        bool, typer.Option("--accept-raw-rows", help="Also take rows in the clear, at /v1/predict.")
    ] = False,
    rows_per_minute: Annotated[int, typer.Option(min=1, help="That one key may ask for.")] = 100_000,
    deadline_seconds: Annotated[float, typer.Option(min=1, help="For one request.")] = 30.0,
    buckets: Annotated[
        str,
        typer.Option(
            metavar="A,B,...", help="Numbers of rows computed at once; by default 1,32,256, of a CNN 1,8."
        ),
    ] = "",
    max_growth_mib: Annotated[
        int, typer.Option(min=0, help="By which a party may grow before fresh ones take over, in MiB.")
    ] = 1024,
    deployment: DeploymentOption = None,
    tunnel_cert: TunnelCertOption = None,
    tunnel_key: TunnelKeyOption = None,
    tunnel_authority: TunnelAuthorityOption = None,
    party_authority: Annotated[
        Path | None,
        typer.Option(help="PEM of who signed the parties' certificates for clients, if not a public one."),
    ] = None,
    home: HomeOption = None,
) -> None:
    """Start three parties, their coordinator and the front end, until Ctrl-C or 'down'."""
    from fedpipe.encrypted.provisioning import default_home
    from server.encrypted.deployment import read_credentials, read_deployment
    from server.encrypted.options import UpOptions, parse_model, parse_numbers
    from server.encrypted.process import run_service

    name, version = parse_model(model)
    options = UpOptions(
        workspace=workspace,
        model=name,
        version=version,
        host=host,
        public_host=public_host,
        port=port,
        party_ports=parse_numbers("--party-ports", party_ports),
        api_key_file=api_key_file,
        tls_cert=tls_cert,
        tls_key=tls_key,
        operator_sees_rows=operator_sees_rows,
        unisolated=unisolated,
        accept_raw_rows=accept_raw_rows,
        rows_per_minute=rows_per_minute,
        deadline_seconds=deadline_seconds,
        buckets=parse_numbers("--buckets", buckets),
        max_growth_bytes=max_growth_mib << 20,
        deployment=read_deployment(deployment) if deployment else None,
        credentials=read_credentials(tunnel_authority, tunnel_cert, tunnel_key),
        authority=party_authority,
        home=home or default_home(),
    )
    run_service(options, typer.echo)


@app.command()
def party(
    deployment: Annotated[Path, typer.Option(help="The file that all four hosts share.")],
    index: Annotated[int, typer.Option(min=0, max=2, help="Which of its parties this host is.")],
    tls_cert: Annotated[Path, typer.Option(help="PEM certificate chain that clients see.")],
    tls_key: Annotated[Path, typer.Option(help="Its PEM key.")],
    tunnel_cert: Annotated[
        Path, typer.Option(help="PEM certificate of the name partyN for the other hosts.")
    ],
    tunnel_key: Annotated[Path, typer.Option(help="Its PEM key.")],
    tunnel_authority: Annotated[Path, typer.Option(help="PEM of who signed the hosts' certificates.")],
    host: Annotated[str, typer.Option(help="The address to listen on for clients.")] = "0.0.0.0",  # noqa: S104
    folder: Annotated[Path, typer.Option(help="Takes the party's log.")] = Path("fedpipe-party"),
    home: HomeOption = None,
) -> None:
    """Run one party on this host for a coordinator on another, until Ctrl-C."""
    from fedpipe.encrypted.provisioning import default_home
    from server.encrypted.deployment import Credentials, read_deployment
    from server.encrypted.party_host import PartyOptions, run_party_host

    options = PartyOptions(
        deployment=read_deployment(deployment),
        credentials=Credentials(authority=tunnel_authority, certificate=tunnel_cert, key=tunnel_key),
        index=index,
        tls=(str(tls_cert.absolute()), str(tls_key.absolute())),
        home=home or default_home(),
        folder=folder,
        host=host,
    )
    run_party_host(options, typer.echo)


@app.command()
def status(workspace: WorkspaceOption = DEFAULT_WORKSPACE) -> None:
    """Show what runs, its counters and its threat model, as JSON; exit 1 if nothing runs."""
    from server.encrypted.process import read_state, state_path

    state = read_state(state_path(workspace))
    typer.echo(json.dumps(state or {"state": "not running"}, indent=2))
    raise typer.Exit(0 if state else 1)


@app.command()
def down(workspace: WorkspaceOption = DEFAULT_WORKSPACE) -> None:
    """End the service of a workspace; what the parties held is gone with them."""
    from server.encrypted.process import state_path, stop_service

    ended = stop_service(state_path(workspace))
    typer.echo("ended" if ended else "nothing was running")
