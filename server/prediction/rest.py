"""TensorFlow Serving's REST interface, as an ASGI application without a framework on the way."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format

from server.prediction import examples, json_tensors
from server.prediction.errors import Code, ServingError, invalid
from server.prediction.grpc_service import status_proto
from server.prediction.service import PredictionService
from server.prediction.signatures import CLASSIFY, REGRESS, find_signature
from server.prediction.sources import parse_version
from server.prediction.versions import LoadedVersion, Query

logger = logging.getLogger("fedpipe.serve")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_PATH = re.compile(
    r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
    r"(?::(?P<verb>predict|classify|regress)|/(?P<metadata>metadata))?",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, kw_only=True)
class _Answer:
    text: str
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


class ClientGoneError(Exception):
    """The client hung up before its request was complete."""


class RestApi:
    """The ASGI application for all paths below /v1/."""

    def __init__(self, service: PredictionService) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one HTTP request."""
        try:
            answer = await self._answer(scope, receive)
        except ServingError as error:
            answer = _error_answer(error)
        except ClientGoneError:
            return
        except Exception:
            logger.exception("A REST request failed.")
            answer = _error_answer(ServingError(Code.INTERNAL, "The server failed."))
        await _send(send, answer)

    async def _answer(self, scope: Scope, receive: Receive) -> _Answer:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if self._service.keys is not None:
            self._service.keys.check(headers)
        found = _PATH.fullmatch(scope["path"])
        if found is None:
            raise invalid("Malformed request: expected a path such as /v1/models/NAME:predict")
        query = _make_query(found)
        expected = "POST" if found["verb"] else "GET"
        if scope["method"] != expected:
            return _not_allowed(expected)
        if found["metadata"]:
            return self._metadata(query)
        if not found["verb"]:
            return self._status(query)
        body = await _read_body(receive, headers, self._service.limits.max_request_bytes)
        return await self._infer(query, found["verb"].lower(), body)

    def _status(self, query: Query) -> _Answer:
        # Closed message: its JSON form is TensorFlow Serving's answer.
        response = json_format.MessageToDict(
            status_proto(self._service, query),
            preserving_proto_field_name=True,
            including_default_value_fields=True,
        )
        return _Answer(text=json.dumps(response, indent=1))

    def _metadata(self, query: Query) -> _Answer:
        with self._service.answering(query, "metadata", "rest") as loaded:
            spec = {"name": loaded.name, "signature_name": "", "version": str(loaded.version)}
            text = (
                f'{{"model_spec":{json.dumps(spec)},'
                f'"metadata":{{"signature_def":{{"signature_def":{loaded.signature_json}}}}}}}'
            )
            return _Answer(text=text, headers=loaded.headers)

    async def _infer(self, query: Query, verb: str, data: bytes) -> _Answer:
        with self._service.answering(query, verb, "rest") as loaded:
            body = json_tensors.parse_body(data)
            if verb == "predict":
                text = await self._predict(loaded, body)
            elif verb == "classify":
                text = await self._classify(loaded, body)
            else:
                text = await self._regress(loaded, body)
            return _Answer(text=text, headers=loaded.headers)

    async def _predict(self, loaded: LoadedVersion, body: dict[str, Any]) -> str:
        signature = find_signature(loaded.servable.signatures, json_tensors.signature_name(body))
        names = tuple(signature.outputs)
        inputs = json_tensors.arrays_from_json(signature, body)
        arrays = await self._service.predict(loaded, signature, inputs, names)
        return json_tensors.json_from_arrays(signature, names, arrays, by_rows="instances" in body)

    async def _classify(self, loaded: LoadedVersion, body: dict[str, Any]) -> str:
        cells = examples.examples_from_json(body)
        name = json_tensors.signature_name(body)
        _, names, arrays = await self._service.infer(loaded, name, CLASSIFY, cells)
        arrays = [
            array if array.dtype == object else json_tensors.as_shortest_doubles(array) for array in arrays
        ]
        results = [
            [[label.decode("utf-8", "replace"), score] for label, score in pairs]
            for pairs in examples.classifications(names, arrays, len(cells))
        ]
        return json_tensors.dump({"results": results})

    async def _regress(self, loaded: LoadedVersion, body: dict[str, Any]) -> str:
        cells = examples.examples_from_json(body)
        name = json_tensors.signature_name(body)
        _, _, arrays = await self._service.infer(loaded, name, REGRESS, cells)
        values = json_tensors.as_shortest_doubles(examples.regressions(arrays, len(cells)))
        return json_tensors.dump({"results": values.tolist()})


def _make_query(found: re.Match[str]) -> Query:
    version = None
    if found["version"]:
        version = parse_version(found["version"])
        if version is None:
            raise invalid("Failed to convert version: expected a number below 2^63")
    return Query(name=found["name"], version=version, label=found["label"])


async def _read_body(receive: Receive, headers: dict[str, str], limit: int) -> bytes:
    declared = headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(limit: int) -> ServingError:
    return ServingError(
        Code.RESOURCE_EXHAUSTED, f"Expected a request of at most {limit} bytes.", http_status=413
    )


def _not_allowed(method: str) -> _Answer:
    text = json_tensors.dump({"error": f"Malformed request: expected {method}"})
    return _Answer(text=text, status=405, headers=(("allow", method),))


def _error_answer(error: ServingError) -> _Answer:
    headers: tuple[tuple[str, str], ...] = ()
    if error.code is Code.UNAUTHENTICATED:
        headers = (("www-authenticate", "Bearer"),)
    if error.code is Code.RESOURCE_EXHAUSTED and error.http_status == Code.RESOURCE_EXHAUSTED.http_status:
        headers = (("retry-after", "1"),)
    return _Answer(text=json_tensors.dump({"error": str(error)}), status=error.http_status, headers=headers)


async def _send(send: Send, answer: _Answer) -> None:
    body = answer.text.encode("utf-8", "replace")
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    headers += [(name.encode("ascii"), value.encode("latin-1", "replace")) for name, value in answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
