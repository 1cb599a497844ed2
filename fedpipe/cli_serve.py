"""`fedpipe serve`: what it can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedpipe.cli_options import DEFAULT_WORKSPACE, TlsCertOption, TlsKeyOption, WorkspaceOption


def serve(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    models: Annotated[
        Path | None,
        typer.Option(help="Serve NAME/VERSION/ below it (or its own VERSION/) instead of a workspace's."),
    ] = None,
    model_name: Annotated[
        str | None, typer.Option(help="--models holds the versions of one model: its name.")
    ] = None,
    model_config_file: Annotated[
        Path | None, typer.Option(help="Serve what a ModelServerConfig of TensorFlow Serving lists.")
    ] = None,
    versions: Annotated[str, typer.Option(help="latest, latest:N, all, or versions such as 1,3.")] = "latest",
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="[MODEL:]LABEL=VERSION", help="Another name for a version. Repeatable."),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    rest_port: Annotated[int, typer.Option(min=-1, max=65535, help="0: any free one; -1: no REST.")] = 8501,
    grpc_port: Annotated[int, typer.Option(min=-1, max=65535, help="0: any free one; -1: no gRPC.")] = 8500,
    api_key_file: Annotated[
        Path | None, typer.Option(help="Answer only those with a key of this file: lines NAME:SHA256.")
    ] = None,
    new_api_key: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Print a fresh key and its line for the key file; serve nothing."),
    ] = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
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
