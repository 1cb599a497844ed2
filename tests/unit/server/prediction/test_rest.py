"""REST answers as TensorFlow Serving's published examples have it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server.prediction.access import KeyRing, new_key
from server.prediction.service import Limits
from tests.unit.server.prediction.conftest import Served, serve


def ask(models: Path, path: str, body: Any, **options: Any) -> tuple[int, Any]:
    async def use(served: Served) -> tuple[int, Any]:
        data = body if isinstance(body, (str, bytes)) else json.dumps(body)
        answer = await served.web.post(f"/v1/models/{path}", content=data)
        return answer.status_code, answer.json()

    return serve(models, use, **options)


def test_the_published_examples_are_answered(models: Path) -> None:
    async def use(served: Served) -> None:
        status = await served.get("half")
        assert status == {
            "model_version_status": [
                {
                    "version": "123",
                    "state": "AVAILABLE",
                    "status": {"error_code": "OK", "error_message": ""},
                }
            ]
        }
        assert await served.get("half/versions/123") == status
        assert await served.get("half/labels/stable") == status
        rows = {"instances": [1.0, 2.0, 5.0]}
        assert await served.post("half:predict", rows) == {"predictions": [2.5, 3.0, 4.5]}
        assert await served.post("half/versions/123:predict", rows) == {"predictions": [2.5, 3.0, 4.5]}
        assert await served.post("half/labels/stable:predict", rows) == {"predictions": [2.5, 3.0, 4.5]}
        assert await served.post("half:predict", {"inputs": [1.0]}) == {"outputs": [2.5]}
        examples = {"signature_name": "regress", "examples": [{"x": 1.0}, {"x": 2.0}]}
        assert await served.post("half:regress", examples) == {"results": [2.5, 3.0]}
        examples = {"context": {"x": 0.25}, "examples": [{}]}
        assert await served.post("half:classify", examples) == {"results": [[["no", 0.75], ["yes", 0.25]]]}

    serve(models, use, labels={"half": {"stable": 123}})


def test_metadata_is_what_clients_parse(models: Path) -> None:
    from google.protobuf import json_format
    from tensorflow_serving.apis import get_model_metadata_pb2

    async def use(served: Served) -> Any:
        return await served.get("half/metadata")

    found = serve(models, use)
    assert found["model_spec"] == {"name": "half", "signature_name": "", "version": "123"}
    signature = found["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert signature["inputs"]["x"]["tensor_shape"]["dim"] == [{"size": "-1", "name": ""}]
    assert signature["method_name"] == "tensorflow/serving/predict"
    signatures = json_format.ParseDict(
        found["metadata"]["signature_def"], get_model_metadata_pb2.SignatureDefMap()
    )
    assert signatures.signature_def["regress"].method_name == "tensorflow/serving/regress"


def test_several_inputs_and_outputs_come_in_rows_and_columns(models: Path) -> None:
    async def use(served: Served) -> None:
        rows = [{"pair": [1, 2], "text": "é"}, {"pair": [3, 4], "text": {"b64": "/w=="}}]
        body: dict[str, Any] = {"signature_name": "several", "instances": rows}
        assert (await served.post("half:predict", body))["predictions"] == [
            {"sum": 3, "text": "é", "raw_bytes": {"b64": "w6k="}},
            {"sum": 7, "text": {"b64": "/w=="}, "raw_bytes": {"b64": "/w=="}},
        ]
        columns = {"pair": [[1, 2], [3, 4]], "text": ["a", "b"]}
        body = {"signature_name": "several", "inputs": columns}
        assert (await served.post("half:predict", body))["outputs"] == {
            "sum": [3, 7],
            "text": ["a", "b"],
            "raw_bytes": [{"b64": "YQ=="}, {"b64": "Yg=="}],
        }
        body = {"signature_name": "scalar", "inputs": 1.5}
        assert await served.post("half:predict", body) == {"outputs": 3.5}
        answer = await served.web.post(
            "/v1/models/half:predict", content=b'{"instances": [NaN, Infinity, -Infinity, 1e9, 0.2]}'
        )
        assert answer.text == '{"predictions":[NaN,Infinity,-Infinity,500000000.0,2.1]}'

    serve(models, use)


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ("", "JSON Parse error"),
        ("[" * 100_000, "JSON Parse error"),
        ("[]", "expected an object"),
        ({}, "exactly one of the keys"),
        ({"instances": [1.0], "inputs": [1.0]}, "exactly one of the keys"),
        ({"instances": []}, "at least one value"),
        ({"instances": [1.0, [2.0]]}, "float32"),
        ({"instances": [[1.0], 2.0]}, "lists of equal size"),
        ({"instances": [[1.0]]}, "shape [?]"),
        ({"instances": ["secret"]}, "float32"),
        ({"instances": [True]}, "float32"),
        ({"instances": [None]}, "float32"),
        ({"instances": [10**400]}, "range of float32"),
        ({"instances": [{"z": 1.0}]}, "Missing but required: {x}"),
        ({"instances": [{"x": 1.0}, {"z": 1.0}]}, "process element: 1"),
        ({"instances": [{"x": 1.0}, 2.0]}, "process element: 1"),
        ({"instances": [1.0], "signature_name": 5}, "must be a string value"),
        ({"instances": [1.0], "signature_name": "no"}, "not found in signature def"),
        ({"signature_name": "scalar", "instances": [1.0]}, "shape []"),
        ({"signature_name": "several", "instances": [1.0]}, "names of the inputs"),
        ({"signature_name": "several", "inputs": {"pair": [[1.5, 2]], "text": ["a"]}}, "int32"),
        ({"signature_name": "several", "inputs": {"pair": [[2**31, 2]], "text": ["a"]}}, "range of int32"),
        ({"signature_name": "several", "inputs": {"pair": [[1, 2]], "text": [{"b64": "*"}]}}, "base64"),
        ({"signature_name": "several", "inputs": {"pair": [[1, 2]], "text": ["\ud800"]}}, "Unicode"),
    ],
)
def test_what_does_not_fit_is_refused_without_its_values(models: Path, body: Any, part: str) -> None:
    status, answer = ask(models, "half:predict", body)
    assert (status, answer.keys()) == (400, {"error"})
    assert part in answer["error"]
    assert "secret" not in answer["error"]


@pytest.mark.parametrize("body", [{}, {"examples": []}, {"examples": [1]}, {"examples": [{"x": [1, "a"]}]}])
def test_examples_that_do_not_fit_are_refused(models: Path, body: Any) -> None:
    for verb in ("classify", "regress"):
        status, answer = ask(models, f"half:{verb}", body)
        assert (status, answer.keys()) == (400, {"error"})


def test_a_feature_in_context_and_example_is_refused(models: Path) -> None:
    status, answer = ask(models, "half:regress", {"context": {"x": 1.0}, "examples": [{"x": 1.0}]})
    assert status == 400
    assert "in both" in answer["error"]


def test_what_is_not_there_is_not_found(models: Path) -> None:
    rows = {"instances": [1.0]}
    assert ask(models, "other:predict", rows) == (
        404,
        {"error": "Servable not found for request: Latest(other)"},
    )
    assert ask(models, "half/versions/7:predict", rows)[0] == 404
    assert ask(models, "other/labels/x:predict", rows)[0] == 404
    assert ask(models, "half/labels/x:predict", rows)[0] == 400
    assert ask(models, f"half/versions/{'9' * 30}:predict", rows)[0] == 400

    async def use(served: Served) -> None:
        assert (await served.web.get("/v1/models/other")).status_code == 404
        assert (await served.web.get("/v1/nothing")).status_code == 400
        answer = await served.web.get("/v1/models/half:predict")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")

    serve(models, use)


def test_requests_have_limits(models: Path) -> None:
    limits = Limits(max_request_bytes=200, max_rows=3, max_in_flight=1)
    assert ask(models, "half:predict", {"instances": [1.0] * 4}, limits=limits)[0] == 400
    assert ask(models, "half:predict", {"instances": [1.0] * 100}, limits=limits)[0] == 413

    async def chunks() -> Any:
        for _ in range(100):
            yield b" " * 10

    async def use(served: Served) -> None:
        answer = await served.web.post("/v1/models/half:predict", content=chunks())
        assert answer.status_code == 413
        served.service.metrics.in_flight = 1
        answer = await served.web.post("/v1/models/half:predict", json={"instances": [1.0]})
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        served.service.metrics.in_flight = 0
        assert (
            await served.web.post("/v1/models/half:predict", json={"instances": [1.0]})
        ).status_code == 200

    serve(models, use, limits=limits)


def test_keys_are_asked_for_everywhere_but_at_health(models: Path, tmp_path: Path) -> None:
    key, line = new_key("clinic")
    file = tmp_path / "keys"
    file.write_text(f"# who may ask\n{line}\n")
    keys = KeyRing(file)

    async def use(served: Served) -> None:
        for path in ("/v1/models/half", "/metrics", "/openapi.json", "/monitoring/prometheus/metrics"):
            assert (await served.web.get(path)).status_code == 401
            assert (await served.web.get(path, headers={"x-api-key": "wrong"})).status_code == 401
            assert (await served.web.get(path, headers={"x-api-key": key})).status_code == 200
            bearer = {"authorization": f"Bearer {key}"}
            assert (await served.web.get(path, headers=bearer)).status_code == 200
        assert (await served.web.get("/healthz")).status_code == 200
        assert (await served.web.get("/readyz")).status_code == 200
        file.write_text(new_key("other")[1])
        keys.reload()
        assert (await served.web.get("/metrics", headers={"x-api-key": key})).status_code == 401

    serve(models, use, keys=keys)


def test_figures_count_requests_without_unbounded_labels(models: Path) -> None:
    async def use(served: Served) -> str:
        await served.post("half:predict", {"instances": [1.0, 2.0]})
        for number in range(20):
            await served.post(f"made-up-{number}:predict", {"instances": [1.0]})
        return (await served.web.get("/monitoring/prometheus/metrics")).text

    figures = serve(models, use)
    labels = 'model="half",version="123",method="predict",protocol="rest",code="OK"'
    assert f"fedpipe_serving_requests_total{{{labels}}} 1\n" in figures
    assert "made-up" not in figures
    assert 'fedpipe_serving_batch_rows_sum{model="half"} 2\n' in figures
    assert 'version_state{model="half",version="123",state="AVAILABLE"} 1' in figures


def test_openapi_document_knows_the_models(models: Path) -> None:
    async def use(served: Served) -> Any:
        assert (await served.web.get("/docs")).status_code == 404
        return (await served.web.get("/openapi.json")).json()

    document = serve(models, use)
    schema = document["paths"]["/v1/models/half:predict"]["post"]["requestBody"]["content"]
    items = schema["application/json"]["schema"]["properties"]["instances"]["items"]
    assert items["anyOf"][0]["properties"] == {"x": {"type": "number"}}
    assert "/v1/models/half:classify" in document["paths"]
    parameters = document["paths"]["/v1/models/{name}/versions/{version}"]["get"]["parameters"]
    examples = [[one["value"] for one in parameter["examples"].values()] for parameter in parameters]
    assert examples == [["half"], [123]]
