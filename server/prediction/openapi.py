"""The OpenAPI document: the whole interface, and each loaded model's own predict, classify and regress.

A model's own paths come from its signatures, so their schemas say exactly what its rows look like.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fedpipe import __version__
from server.prediction.signatures import CLASSIFY, DEFAULT_SIGNATURE, REGRESS, Signature, TensorSpec
from server.prediction.versions import Models

Json = dict[str, Any]

_NUMBER: Json = {"type": "number"}
_VALUE: Json = {"description": 'A value, or nested lists of values. Bytes are {"b64": BASE64}.'}
_BASE64_PATTERN = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_BASE64: Json = {
    "type": "object",
    "properties": {"b64": {"type": "string", "pattern": _BASE64_PATTERN}},
    "required": ["b64"],
    "additionalProperties": False,
}
_TEXT: Json = {"anyOf": [{"type": "string"}, _BASE64]}
_ERRORS = {
    "400": "The request is malformed or does not fit the model.",
    "404": "There is no such model, version or path.",
    "405": "The path wants another method.",
    "413": "The body is too large.",
    "429": "Too many requests are being answered.",
    "503": "The server is stopping.",
    "504": "The model did not answer in time.",
}
_OPERATIONS = {
    "/healthz": ("Whether the process lives.", "application/json", {"200"}),
    "/readyz": ("Whether every model has a version that answers.", "application/json", {"200", "503"}),
    "/metrics": ("Figures for Prometheus.", "text/plain", {"200", "401"}),
    "/monitoring/prometheus/metrics": (
        "The same, at TensorFlow Serving's path.",
        "text/plain",
        {"200", "401"},
    ),
    "/openapi.json": ("This document.", "application/json", {"200", "401"}),
}


def openapi_document(models: Models, *, with_keys: bool) -> Json:
    """Returns the document for what is loaded now.

    Args:
      models: what is loaded.
      with_keys: whether requests need an API key.
    """
    paths: Json = dict(_general_paths(models, with_keys))
    for name, model in sorted(models.by_name.items()):
        if model.loaded:
            signatures = model.loaded[max(model.loaded)].servable.signatures
            paths.update(_model_paths(name, signatures, with_keys))
    for path, (summary, media_type, statuses) in _OPERATIONS.items():
        paths[path] = {"get": _operation_get(summary, media_type, statuses, with_keys)}
    document: Json = {
        "openapi": "3.0.3",
        "info": {
            "title": "fedpipe serve",
            "version": __version__,
            "description": "TensorFlow Serving's REST interface.",
        },
        "paths": paths,
        "components": {"schemas": _schemas()},
    }
    if with_keys:
        document["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        }
    return document


def _general_paths(models: Models, with_keys: bool) -> Json:
    paths: Json = {}
    loaded = {name: model for name, model in sorted(models.by_name.items()) if model.loaded}
    labels = {label for model in loaded.values() for label in model.source.labels}
    versions = {version for model in loaded.values() for version in model.loaded}
    text: Json = {"type": "string", "minLength": 1, "pattern": "^[^/:]+$"}
    name = _parameter("name", text, loaded)
    version = _parameter("version", {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}, sorted(versions))
    label = _parameter("label", text, sorted(labels))
    for suffix, parameters in (
        ("", [name]),
        ("/versions/{version}", [name, version]),
        ("/labels/{label}", [name, label]),
    ):
        path = "/v1/models/{name}" + suffix
        paths[path] = {"get": _get("States of the model's versions.", "Status", parameters, with_keys)}
        paths[path + "/metadata"] = {"get": _get("Its signatures.", "Metadata", parameters, with_keys)}
        for verb in ("predict", "classify", "regress"):
            schema = {"$ref": f"#/components/schemas/{verb.capitalize()}Request"}
            answer = {"$ref": f"#/components/schemas/{verb.capitalize()}Answer"}
            paths[f"{path}:{verb}"] = {
                "post": _post(f"{verb.capitalize()}.", schema, answer, parameters, with_keys)
            }
    return paths


def _model_paths(model: str, signatures: dict[str, Signature], with_keys: bool) -> Json:
    paths: Json = {}
    path = f"/v1/models/{model}"
    default = signatures.get(DEFAULT_SIGNATURE)
    if default and default.batchable:
        paths[f"{path}:predict"] = {
            "post": _post(
                f"Predict with {model}: rows.",
                _row_request(default),
                {"$ref": "#/components/schemas/PredictAnswer"},
                [],
                with_keys,
            )
        }
    methods = [signature.method_name for signature in signatures.values()]
    names = {signature.method_name: name for name, signature in signatures.items()}
    for verb, method in (("classify", CLASSIFY), ("regress", REGRESS)):
        if methods.count(method) == 1:
            answer = {"$ref": f"#/components/schemas/{verb.capitalize()}Answer"}
            # Names that are in both are refused, which a schema cannot say: here, no context at all.
            reference = {"$ref": f"#/components/schemas/{verb.capitalize()}Request"}
            own: Json = {"properties": {"signature_name": {"type": "string", "enum": [names[method]]}}}
            request: Json = {"allOf": [reference, own, {"not": {"required": ["context"]}}]}
            summary = f"{verb.capitalize()} with {model}."
            paths[f"{path}:{verb}"] = {"post": _post(summary, request, answer, [], with_keys)}
    return paths


def _row_request(signature: Signature) -> Json:
    row: Json = {
        "type": "object",
        "properties": {name: _cell_schema(spec, 1) for name, spec in signature.inputs.items()},
        "required": list(signature.inputs),
        "additionalProperties": False,
    }
    if len(signature.inputs) == 1:
        only = next(iter(signature.inputs.values()))
        row = {"anyOf": [row, _cell_schema(only, 1)]}
    return {
        "type": "object",
        "properties": {
            "signature_name": {"type": "string", "enum": [signature.name]},
            "instances": {"type": "array", "minItems": 1, "maxItems": 1000, "items": row},
        },
        "required": ["instances"],
        "not": {"required": ["inputs"]},
    }


def _cell_schema(spec: TensorSpec, axis: int) -> Json:
    """Returns the schema of what is left of an input below `axis`."""
    if spec.shape is None:
        return _VALUE
    if axis < len(spec.shape):
        size = spec.shape[axis]
        exact: Json = {} if size is None else {"minItems": size, "maxItems": size}
        return {"type": "array", "items": _cell_schema(spec, axis + 1), **exact}
    if spec.is_string:
        return _TEXT
    if spec.dtype.kind == "b":
        return {"type": "boolean"}
    return {"type": "integer"} if spec.dtype.kind in "iu" else _NUMBER


def _get(summary: str, schema: str, parameters: list[Json], with_keys: bool) -> Json:
    answer = {"$ref": f"#/components/schemas/{schema}"}
    return {
        "summary": summary,
        "parameters": parameters,
        "responses": _responses(answer, ("400", "404", "405", "429", "503"), with_keys),
        **_security(with_keys),
    }


def _post(summary: str, schema: Json, answer: Json, parameters: list[Json], with_keys: bool) -> Json:
    return {
        "summary": summary,
        "parameters": parameters,
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": _responses(answer, tuple(_ERRORS), with_keys),
        **_security(with_keys),
    }


def _responses(answer: Json, errors: tuple[str, ...], with_keys: bool) -> Json:
    found: Json = {"200": {"description": "The answer.", "content": {"application/json": {"schema": answer}}}}
    texts = {status: _ERRORS[status] for status in errors}
    if with_keys:
        texts["401"] = "No valid API key came along."
    for status, text in sorted(texts.items()):
        schema = {"$ref": "#/components/schemas/Error"}
        found[status] = {"description": text, "content": {"application/json": {"schema": schema}}}
    return found


def _operation_get(summary: str, media_type: str, statuses: set[str], with_keys: bool) -> Json:
    content: Json = {media_type: {"schema": {"type": "string" if media_type == "text/plain" else "object"}}}
    errors: Json = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    secured = with_keys and "401" in statuses
    responses = {
        status: {"description": summary, "content": errors if status == "401" else content}
        for status in sorted(statuses)
        if status != "401" or secured
    }
    return {"summary": summary, "responses": responses, **_security(secured)}


def _security(with_keys: bool) -> Json:
    return {"security": [{"bearer": []}, {"key": []}]} if with_keys else {}


def _parameter(name: str, schema: Json, known: Iterable[str | int]) -> Json:
    examples = {f"{name} {value}": {"value": value} for value in known}
    more = {"examples": examples} if examples else {}
    return {"name": name, "in": "path", "required": True, "schema": schema, **more}


def _schemas() -> Json:
    lists: list[Json] = [{"type": "array", "items": kind} for kind in (_NUMBER, _TEXT)]
    features: Json = {"type": "object", "additionalProperties": {"anyOf": [_NUMBER, _TEXT, *lists]}}
    example_request: Json = {
        "type": "object",
        "properties": {
            "signature_name": {"type": "string"},
            "context": features,
            "examples": {"type": "array", "minItems": 1, "items": features},
        },
        "required": ["examples"],
    }
    predict_request: Json = {
        "type": "object",
        "properties": {
            "signature_name": {"type": "string"},
            "instances": {"type": "array", "minItems": 1, "items": {}},
            "inputs": _VALUE,
        },
        "oneOf": [{"required": ["instances"]}, {"required": ["inputs"]}],
    }
    pairs: Json = {"type": "array", "items": {"type": "array", "items": {"type": "array", "items": {}}}}
    return {
        "Error": _object({"error": {"type": "string"}}),
        "PredictRequest": predict_request,
        "ClassifyRequest": example_request,
        "RegressRequest": example_request,
        "PredictAnswer": {
            "type": "object",
            "properties": {"predictions": {"type": "array", "items": {}}, "outputs": _VALUE},
            "oneOf": [{"required": ["predictions"]}, {"required": ["outputs"]}],
        },
        "ClassifyAnswer": _object({"results": pairs}),
        "RegressAnswer": _object({"results": {"type": "array", "items": _NUMBER}}),
        "Status": _object({"model_version_status": {"type": "array", "items": _version_status()}}),
        "Metadata": _object({"model_spec": {"type": "object"}, "metadata": {"type": "object"}}),
    }


def _version_status() -> Json:
    states = ["UNKNOWN", "START", "LOADING", "AVAILABLE", "UNLOADING", "END"]
    text: Json = {"type": "string"}
    return _object(
        {
            "version": text,
            "state": {"type": "string", "enum": states},
            "status": _object({"error_code": text, "error_message": text}),
        }
    )


def _object(properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}
