"""Options that several commands share: spelt, explained and defaulted alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_WORKSPACE = Path("fedpipe-workspace")

WorkspaceOption = Annotated[Path, typer.Option("--workspace", help="Where everything is kept.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
ResultJsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Overrides a setting. Repeatable."),
]
SpanOption = Annotated[list[str] | None, typer.Option(help="Only records of this span. Repeatable.")]
FormatOption = Annotated[str, typer.Option("--format", help="text, json or html.")]
OutputOption = Annotated[Path | None, typer.Option(help="Write it there instead of on stdout.")]
MetricsOption = Annotated[
    str, typer.Option(metavar="HOST:PORT", help="Serve /metrics, /healthz and /readyz on loopback.")
]
TlsCertOption = Annotated[Path | None, typer.Option(help="PEM certificate chain.")]
TlsKeyOption = Annotated[Path | None, typer.Option(help="Its PEM key.")]
