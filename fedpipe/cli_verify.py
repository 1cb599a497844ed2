"""`fedpipe budget verify` and `schema`: whether what a certificate promises holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedpipe.cli_options import JsonOption

if TYPE_CHECKING:
    from fedpipe.ledger.verify import Anchors, Verification


def verify(
    file: Annotated[Path, typer.Argument(help="A certificate: runs/RUN/register/certificate.json.")],
    key: Annotated[
        list[str] | None, typer.Option(metavar="PUBLIC|FILE", help="The operator's public key. Repeatable.")
    ] = None,
    client_key: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PUBLIC|FILE", help="A client's public key. Repeatable.")
    ] = None,
    code: Annotated[bool, typer.Option("--code", help="Insist on the code that is installed here.")] = False,
    json_: JsonOption = False,
) -> None:
    """Recompute a certificate's epsilon, check its signatures, and name all that differs."""
    from fedpipe.ledger.verify import verify_certificate

    anchors = _anchors(file, key or [], client_key or [])
    found = verify_certificate(file, anchors, check_code=code)
    if json_:
        typer.echo(json.dumps(found.to_json(), indent=2))
    else:
        _print(found, anchors)
    raise typer.Exit(0 if found.verified else 2)


def schema() -> None:
    """Print the JSON Schema of certificates."""
    from fedpipe.ledger.certificate_schema import certificate_schema

    typer.echo(json.dumps(certificate_schema(), indent=2))


def _anchors(file: Path, keys: list[str], client_keys: list[str]) -> Anchors:
    from fedpipe.errors import ConfigError
    from fedpipe.ledger.verify import Anchors

    clients = {}
    for each in client_keys:
        name, equals, public = each.partition("=")
        if not (name and equals and public):
            raise ConfigError(f"Expected --client-key NAME=PUBLIC, found {each!r}.")
        clients[name] = _public_key(public)
    if keys:
        return Anchors(operators=frozenset(map(_public_key, keys)), clients=clients, origin="--key")
    own = _workspace_key(file)
    if own is None:
        return Anchors(clients=clients)
    return Anchors(operators=frozenset({_public_key(str(own))}), clients=clients, origin=str(own))


def _workspace_key(file: Path) -> Path | None:
    """Returns the public key of the workspace that `file` lies in, if it lies in one that has a key."""
    from fedpipe.pipeline.workspace import MARKER, PUBLIC_KEY

    for folder in file.absolute().parents:
        if (folder / MARKER).is_file():
            return folder / PUBLIC_KEY if (folder / PUBLIC_KEY).is_file() else None
    return None


def _public_key(text: str) -> str:
    """Returns a public key given as such, or as the file that holds it."""
    from fedpipe.errors import ConfigError
    from fedpipe.signing import is_public_key

    if is_public_key(text):
        return text
    try:
        found = Path(text).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        found = ""
    if not is_public_key(found):
        raise ConfigError(
            f"Expected an Ed25519 public key (32 bytes in base64) or a file that holds one, found {text!r}."
        )
    return found


def _print(found: Verification, anchors: Anchors) -> None:
    certificate, privacy = found.certificate, found.certificate.privacy
    splits = ", ".join(f"{split} {epsilon:.6g}" for split, epsilon in found.recomputed.items())
    signer = certificate.signature.public_key if certificate.signature else "nobody"
    known = anchors.operators and signer in anchors.operators
    attested = {each.statement.client for each in certificate.attestations}
    committed = {each.client for each in certificate.commitments}
    rows = {
        "certificate": f"{certificate.model}:{certificate.model_version}, run {certificate.run_id}",
        "status": privacy.status,
        "epsilon": f"{_figure(privacy.epsilon)} at delta {_figure(privacy.delta)}; "
        f"{privacy.neighboring_relation.replace('_', ' ')} {privacy.unit}",
        "recomputed": splits or "nothing: no events",
        "signed by": f"{signer} ({anchors.origin if known else 'not known'})",
        "vouched for": f"by {len(attested)} of {len(committed)} clients",
    }
    for name, value in rows.items():
        typer.echo(f"{name:<12} {_printable(value)}")
    for note in found.notes:
        typer.echo(f"{'note':<12} {note}")
    typer.echo("VERIFIED" if found.verified else f"NOT VERIFIED: {len(found.differences)} found to differ")
    for difference in found.differences:
        typer.echo(f"- {difference}")


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text)
