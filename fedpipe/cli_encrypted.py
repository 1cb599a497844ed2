"""`fedpipe encrypted`: predictions on rows that nobody else sees."""

from __future__ import annotations

import typer

from fedpipe.encrypted.command import predict

app = typer.Typer(no_args_is_help=True, help="Predictions on rows that nobody else sees.")
app.command()(predict)
app.callback()(lambda: None)  # a group, however few commands it has
