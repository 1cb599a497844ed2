"""`fedpipe encrypted predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def predict(
    url: Annotated[str, typer.Option(help="The service's front end; https unless it is on this machine.")],
    input_: Annotated[Path, typer.Option("--input", help="CSV of the rows, with a header.")],
    output: Annotated[Path, typer.Option(help="CSV of the predictions, written when all are there.")],
    key: Annotated[
        str | None, typer.Option(envvar="FEDPIPE_ENCRYPTED_KEY", help="Your key, if the front end wants one.")
    ] = None,
    authority: Annotated[
        Path | None,
        typer.Option(help="PEM certificates that vouch for front end and parties; none: the usual ones."),
    ] = None,
    version: Annotated[int | None, typer.Option(min=1, help="Refuse answers of another version.")] = None,
    certificate: Annotated[
        str | None, typer.Option(metavar="SHA256", help="Refuse answers under another privacy certificate.")
    ] = None,
    timeout_seconds: Annotated[float, typer.Option(min=0.1, help="For each batch of rows.")] = 60.0,
) -> None:
    """Predict a file of rows, which leave this machine as secret shares only."""
    from fedpipe.encrypted.client import EncryptedClient, trust
    from fedpipe.encrypted.tables import predict_file

    client = EncryptedClient(
        url,
        key=key,
        verify=trust(authority) if authority else True,
        version=version,
        certificate=certificate,
        timeout_seconds=timeout_seconds,
    )
    with client:
        num_rows = predict_file(client, input_, output)
        card = client.card
    typer.echo(f"Wrote {num_rows} predictions of {card.model}:{card.version} ({card.privacy}) to {output}.")
    if card.operator_sees_rows:
        typer.echo("Whoever runs this service could see the rows: one operator runs all of its parts.")
