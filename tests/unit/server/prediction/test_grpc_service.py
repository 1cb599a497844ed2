"""gRPC answers as `tensorflow-serving-api` expects them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from fedpipe.learning.tensorflow_runtime import tf
from server.prediction.access import KeyRing, new_key
from server.prediction.grpc_service import ModelServicer, PredictionServicer
from server.prediction.reload import Reload
from tests.unit.server.prediction.conftest import Served, floats, serve

pb = pytest.importorskip("tensorflow_serving.apis.predict_pb2")
from tensorflow_serving.apis import (  # noqa: E402
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
    regression_pb2,
)


def call(models: Path, use: Callable[[Any, Any], Awaitable[Any]], **options: Any) -> Any:
    """Returns what `use` makes of stubs for both services."""

    async def with_server(served: Served) -> Any:
        # Without this, two test processes may listen on one port and answer each other's clients.
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            PredictionServicer(served.service), server
        )
        reload = Reload(served.repository, (models,))
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            ModelServicer(served.service, reload), server
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                return await asyncio.wait_for(
                    use(
                        prediction_service_pb2_grpc.PredictionServiceStub(channel),
                        model_service_pb2_grpc.ModelServiceStub(channel),
                    ),
                    30,
                )
        finally:
            await server.stop(0)

    return serve(models, with_server, **options)


def request(values: Any, *, name: str = "half", signature: str = "", key: str = "x") -> Any:
    found = pb.PredictRequest()
    found.model_spec.name = name
    found.model_spec.signature_name = signature
    found.inputs[key].CopyFrom(tf.make_tensor_proto(values))
    return found


def examples(kind: Any, *values: float, signature: str = "") -> Any:
    found = kind()
    found.model_spec.name = "half"
    found.model_spec.signature_name = signature
    for value in values:
        example = found.input.example_list.examples.add()
        example.features.feature["x"].float_list.value.append(value)
    return found


def test_predict_answers_in_the_fields_that_clients_read(models: Path) -> None:
    async def use(stub: Any, _: Any) -> None:
        answer = await stub.Predict(request(floats(1.0, 2.0, 5.0)))
        assert list(answer.outputs["y"].float_val) == [2.5, 3.0, 4.5]
        assert (answer.model_spec.version.value, answer.model_spec.signature_name) == (123, "serving_default")
        asked = request(np.int32([[1, 2], [3, 4]]), signature="several", key="pair")
        asked.inputs["text"].CopyFrom(tf.make_tensor_proto([b"a", b"\xff"]))
        answer = await stub.Predict(asked)
        assert list(answer.outputs["sum"].int_val) == [3, 7]
        assert list(answer.outputs["text"].string_val) == [b"a", b"\xff"]
        asked.output_filter.append("sum")
        assert set((await stub.Predict(asked)).outputs) == {"sum"}
        repeated = request(floats(1.0, 1.0))
        del repeated.inputs["x"].float_val[:]
        repeated.inputs["x"].ClearField("tensor_content")
        repeated.inputs["x"].float_val.append(3.0)
        assert list((await stub.Predict(repeated)).outputs["y"].float_val) == [3.5, 3.5]

    call(models, use)


def test_classify_regress_and_multi_inference_answer(models: Path) -> None:
    async def use(stub: Any, _: Any) -> None:
        answer = await stub.Regress(examples(regression_pb2.RegressionRequest, 1.0, 2.0))
        assert [found.value for found in answer.result.regressions] == [2.5, 3.0]
        answer = await stub.Classify(examples(classification_pb2.ClassificationRequest, 0.25))
        classes = answer.result.classifications[0].classes
        assert [(found.label, found.score) for found in classes] == [("no", 0.75), ("yes", 0.25)]
        asked = inference_pb2.MultiInferenceRequest()
        asked.input.CopyFrom(examples(regression_pb2.RegressionRequest, 1.0).input)
        for name in ("classify", "regress"):
            asked.tasks.add(method_name=f"tensorflow/serving/{name}").model_spec.name = "half"
            asked.tasks[-1].model_spec.signature_name = name
        results = (await stub.MultiInference(asked)).results
        assert results[0].classification_result.classifications[0].classes[1].score == 1.0
        assert results[1].regression_result.regressions[0].value == 2.5

    call(models, use)


def test_metadata_and_status_are_told(models: Path) -> None:
    async def use(stub: Any, management: Any) -> None:
        asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        asked.model_spec.name = "half"
        answer = await stub.GetModelMetadata(asked)
        found = get_model_metadata_pb2.SignatureDefMap()
        assert answer.metadata["signature_def"].Unpack(found)
        assert "serving_default" in found.signature_def
        status = get_model_status_pb2.GetModelStatusRequest()
        status.model_spec.name = "half"
        answer = await management.GetModelStatus(status)
        state = get_model_status_pb2.ModelVersionStatus.AVAILABLE
        assert [(one.version, one.state) for one in answer.model_version_status] == [(123, state)]

    call(models, use)


@pytest.mark.parametrize(
    ("asked", "code", "part"),
    [
        (request(floats(1.0), name="other"), "NOT_FOUND", "Servable not found for request: Latest(other)"),
        (request(floats(1.0), signature="no"), "INVALID_ARGUMENT", "not found in signature def"),
        (request(floats(1.0), key="z"), "INVALID_ARGUMENT", "Missing but required: {x}"),
        (request("secret"), "INVALID_ARGUMENT", "of type float32"),
        (request(floats([1.0])), "INVALID_ARGUMENT", "shape [?]"),
    ],
)
def test_refusals_have_the_codes_of_tensorflow_serving(
    models: Path, asked: Any, code: str, part: str
) -> None:
    async def use(stub: Any, _: Any) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Predict(asked)
        assert caught.value.code() is grpc.StatusCode[code]
        assert part in str(caught.value.details())
        assert "secret" not in str(caught.value.details())

    call(models, use)


def test_a_tensor_that_claims_to_be_huge_is_refused(models: Path) -> None:
    async def use(stub: Any, _: Any) -> None:
        asked = request(floats(1.0))
        asked.inputs["x"].tensor_shape.dim[0].size = 1 << 40
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Predict(asked)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    call(models, use)


def test_a_call_needs_a_key_where_keys_are_asked_for(models: Path, tmp_path: Path) -> None:
    key, line = new_key("clinic")
    (tmp_path / "keys").write_text(line)

    async def use(stub: Any, _: Any) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Predict(request(floats(1.0)))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        await stub.Predict(request(floats(1.0)), metadata=(("x-api-key", key),))
        await stub.Predict(request(floats(1.0)), metadata=(("authorization", f"Bearer {key}"),))

    call(models, use, keys=KeyRing(tmp_path / "keys"))


def test_a_reload_serves_what_it_lists_and_opens_nothing_else(models: Path, tmp_path: Path) -> None:
    async def use(stub: Any, management: Any) -> None:
        asked = model_management_pb2.ReloadConfigRequest()
        config = asked.config.model_config_list.config.add(name="other", base_path=str(models / "half"))
        config.version_labels["stable"] = 123
        await management.HandleReloadConfigRequest(asked)
        status = get_model_status_pb2.GetModelStatusRequest()
        status.model_spec.name = "other"
        [state] = (await management.GetModelStatus(status)).model_version_status
        assert state.state == get_model_status_pb2.ModelVersionStatus.AVAILABLE, state.status.error_message
        assert list((await stub.Predict(request(floats(1.0), name="other"))).outputs["y"].float_val) == [2.5]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Predict(request(floats(1.0)))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        config.base_path = str(models / ".." / "model")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await management.HandleReloadConfigRequest(asked)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        await stub.Predict(request(floats(1.0), name="other"))

    call(models, use)
