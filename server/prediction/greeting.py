"""What `fedpipe serve` prints when it is ready: what is served where, and a request to try."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

from server.prediction.options import ServeOptions
from server.prediction.signatures import DEFAULT_SIGNATURE
from server.prediction.versions import Models, ServedModel


def greeting(
    options: ServeOptions, models: Models, rest_port: int | None, grpc_port: int | None
) -> Iterator[str]:
    """Yields the lines."""
    for name, model in sorted(models.by_name.items()):
        versions = ", ".join(str(version) for version in sorted(model.loaded)) or "none"
        yield f"Model {name}, version {versions}"
    if not models.by_name and options.catalogue.root:
        yield f"No model yet: one in {options.catalogue.root}/NAME/VERSION/ will be served when it appears."
    host = f"[{options.host}]" if ":" in options.host else options.host
    if rest_port is not None:
        url = f"{'https' if options.tls_cert else 'http'}://{host}:{rest_port}"
        yield f"REST  {url}"
        loaded = [(name, model) for name, model in sorted(models.by_name.items()) if model.loaded]
        for name, model in loaded[:1]:
            yield f"Try:  curl{_options(options)} {_question(url, name, model)}"
    if grpc_port is not None:
        yield f"gRPC  {host}:{grpc_port}{' (TLS)' if options.tls_cert else ''}"


def _options(options: ServeOptions) -> str:
    authority = f" --cacert {shlex.quote(str(options.tls_cert))}" if options.tls_cert else ""
    return authority + (" -H 'x-api-key: KEY'" if options.api_key_file else "")


def _question(url: str, name: str, model: ServedModel) -> str:
    signature = model.loaded[max(model.loaded)].servable.signatures.get(DEFAULT_SIGNATURE)
    if signature is None or not signature.batchable:
        return shlex.quote(f"{url}/v1/models/{name}/metadata")
    row = {spec.name: spec.empty_row()[0].tolist() for spec in signature.inputs.values()}
    body = json.dumps({"instances": [_as_text(row)]})
    return f"-d {shlex.quote(body)} {shlex.quote(f'{url}/v1/models/{name}:predict')}"


def _as_text(value: object) -> object:
    """Returns `value` with bytes as text."""
    if isinstance(value, dict):
        return {key: _as_text(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_as_text(part) for part in value]
    return value.decode() if isinstance(value, bytes) else value
