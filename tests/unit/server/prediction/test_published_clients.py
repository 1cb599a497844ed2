"""Requests as TensorFlow Serving's documents and example clients send them, to models made as theirs are.

Sources: tensorflow.org/tfx/serving/api_rest (half_plus_three) and the examples mnist_client, resnet_client
and resnet_client_grpc of github.com/tensorflow/serving.
"""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from fedpipe.learning.tensorflow_runtime import tf
from server.prediction.grpc_service import PredictionServicer
from tests.unit.server.prediction.conftest import Served, serve

predict_pb2 = pytest.importorskip("tensorflow_serving.apis.predict_pb2")
from tensorflow_serving.apis import (  # noqa: E402
    classification_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

v1 = tf.compat.v1
REGRESS = "tensorflow/serving/regress"


def save_half_plus_three(directory: Path) -> None:
    """Writes y = x / 2 + 3 as a TensorFlow 1 model: its `x` lies behind the parser of examples."""
    signature = v1.saved_model.signature_def_utils.build_signature_def
    with tf.Graph().as_default(), v1.Session() as session:
        serialized = v1.placeholder(tf.string, [None], name="tf_example")
        features = {"x": tf.io.FixedLenFeature([1], tf.float32)}
        x = tf.identity(tf.io.parse_example(serialized, features)["x"], name="x")
        y = v1.get_variable("a", initializer=0.5) * x + v1.get_variable("b", initializer=3.0)
        info = {
            name: v1.saved_model.build_tensor_info(t) for name, t in (("s", serialized), ("x", x), ("y", y))
        }
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(directory))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            signature_def_map={
                "serving_default": signature(
                    {"x": info["x"]}, {"y": info["y"]}, "tensorflow/serving/predict"
                ),
                REGRESS: signature({"inputs": info["s"]}, {"outputs": info["y"]}, REGRESS),
                "classify_x_to_y": signature(
                    {"inputs": info["s"]}, {"scores": info["y"]}, "tensorflow/serving/classify"
                ),
            },
        )
        builder.save()


class Pictures(tf.Module):
    """What the clients of MNIST and ResNet ask for, without the learning."""

    @tf.function(input_signature=[tf.TensorSpec([None, 784], tf.float32, name="images")])
    def predict_images(self, images: Any) -> Any:
        return {"scores": images[:, :10]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def serving_default(self, image_bytes: Any) -> Any:
        lengths = tf.strings.length(image_bytes)
        return {"classes": lengths, "probabilities": tf.one_hot(lengths, 3)}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of both models."""
    root = tmp_path_factory.mktemp("published")
    save_half_plus_three(root / "half_plus_three" / "123")
    pictures = Pictures()
    signatures = {name: getattr(pictures, name) for name in ("predict_images", "serving_default")}
    tf.saved_model.save(pictures, str(root / "pictures" / "1"), signatures=signatures)
    return root


def over_rest(root: Path, method: str, path: str, body: str = "") -> httpx.Response:
    """Returns the answer to a line of curl."""

    async def use(served: Served) -> httpx.Response:
        # As curl -d sends it.
        headers = {"content-type": "application/x-www-form-urlencoded"}
        return await served.web.request(method, f"/v1/models/{path}", content=body, headers=headers)

    return serve(root, use)


def over_grpc(root: Path, client: Callable[[Any], None]) -> None:
    """Runs a client, which may block, with a stub."""

    def run(port: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            client(prediction_service_pb2_grpc.PredictionServiceStub(channel))

    async def use(served: Served) -> None:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        servicer = PredictionServicer(served.service)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            await asyncio.to_thread(run, port)
        finally:
            await server.stop(0)

    serve(root, use)


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        (":predict", '{"instances": [1.0,2.0,5.0]}', {"predictions": [3.5, 4.0, 5.5]}),
        ("/versions/123:predict", '{"instances": [[1.0],[2.0]]}', {"predictions": [[3.5], [4.0]]}),
        (":predict", '{"inputs": [1.0,2.0,5.0]}', {"outputs": [3.5, 4.0, 5.5]}),
        (":predict", '{"inputs": {"x": [[1.0]]}}', {"outputs": [[3.5]]}),
        (":predict", '{"inputs": 1.0}', {"outputs": 3.5}),
        (
            ":regress",
            '{"signature_name": "tensorflow/serving/regress", "examples": [{"x": 1.0}, {"x": 2.0}]}',
            {"results": [3.5, 4.0]},
        ),
        (":classify", '{"signature_name": "classify_x_to_y", "examples": [{"x": 1}]}', None),
        (
            ":classify",
            '{"signature_name": "classify_x_to_y", "examples": [{"x": 1.0}]}',
            {"results": [[["", 3.5]]]},
        ),
    ],
)
def test_lines_of_the_rest_document_are_answered(
    published: Path, path: str, body: str, expected: Any
) -> None:
    answer = over_rest(published, "POST", f"half_plus_three{path}", body)
    if expected is None:  # a whole number is an int64 feature, which this model does not parse
        assert (answer.status_code, answer.json().keys()) == (400, {"error"})
    else:
        assert (answer.status_code, answer.json()) == (200, expected)
    assert answer.headers["content-type"] == "application/json"


def test_an_unknown_model_is_answered_word_for_word(published: Path) -> None:
    answer = over_rest(published, "POST", "half:predict", '{"instances": [1.0,5.0]}')
    assert answer.status_code == 404
    assert answer.json() == {"error": "Servable not found for request: Latest(half)"}


def test_status_and_metadata_are_laid_out_as_documented(published: Path) -> None:
    status = over_rest(published, "GET", "half_plus_three")
    assert status.text == (
        '{\n "model_version_status": [\n  {\n   "version": "123",\n   "state": "AVAILABLE",\n   "status": {\n'
        '    "error_code": "OK",\n    "error_message": ""\n   }\n  }\n ]\n}'
    )
    found = over_rest(published, "GET", "half_plus_three/metadata").json()
    assert found["model_spec"] == {"name": "half_plus_three", "signature_name": "", "version": "123"}
    signature = found["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["x"] == {
        "dtype": "DT_FLOAT",
        "tensor_shape": {
            "dim": [{"size": "-1", "name": ""}, {"size": "1", "name": ""}],
            "unknown_rank": False,
        },
        "name": "x:0",
    }


def test_the_client_of_half_plus_two_is_answered(published: Path) -> None:
    def client(stub: Any) -> None:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "half_plus_three"
        request.model_spec.signature_name = "serving_default"
        request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0]))
        assert list(stub.Predict(request).outputs["y"].float_val) == [3.5]
        regression = regression_pb2.RegressionRequest()
        regression.model_spec.name = "half_plus_three"
        regression.model_spec.signature_name = REGRESS
        example = regression.input.example_list.examples.add()
        example.features.feature["x"].float_list.value.extend([2.0])
        assert stub.Regress(regression).result.regressions[0].value == 4.0
        classification = classification_pb2.ClassificationRequest()
        classification.model_spec.name = "half_plus_three"
        classification.model_spec.signature_name = "classify_x_to_y"
        classification.input.CopyFrom(regression.input)
        [found] = stub.Classify(classification).result.classifications[0].classes
        assert (found.label, found.score) == ("", 4.0)

    over_grpc(published, client)


def test_the_client_of_mnist_is_answered_through_futures(published: Path) -> None:
    def client(stub: Any) -> None:
        scores: list[Any] = []
        done = threading.Semaphore(0)

        def note(future: Any) -> None:
            scores.append(np.array(future.result().outputs["scores"].float_val))
            done.release()

        for number in range(8):
            request = predict_pb2.PredictRequest()
            request.model_spec.name = "pictures"
            request.model_spec.signature_name = "predict_images"
            image = np.full(784, number, np.float32)
            request.inputs["images"].CopyFrom(tf.make_tensor_proto(image, shape=[1, image.size]))
            stub.Predict.future(request, 5.0).add_done_callback(note)
        for _ in range(8):
            assert done.acquire(timeout=30)
        assert sorted(found.tolist() for found in scores) == [[float(number)] * 10 for number in range(8)]

    over_grpc(published, client)


def test_the_clients_of_resnet_are_answered(published: Path) -> None:
    picture = b"\xff\xd8"
    encoded = base64.b64encode(picture).decode()
    answer = over_rest(published, "POST", "pictures:predict", f'{{"instances" : [{{"b64": "{encoded}"}}]}}')
    assert answer.json()["predictions"][0] == {"classes": 2, "probabilities": [0.0, 0.0, 1.0]}
    body = {"instances": [{"image_bytes": {"b64": encoded}}]}
    assert over_rest(published, "POST", "pictures:predict", json.dumps(body)).json() == answer.json()

    def client(stub: Any) -> None:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "pictures"
        request.model_spec.signature_name = "serving_default"
        request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(picture, shape=[1]))
        result = stub.Predict(request, 10.0)
        assert list(result.outputs["classes"].int_val) == [2]
        assert tf.make_ndarray(result.outputs["probabilities"]).tolist() == [[0.0, 0.0, 1.0]]

    over_grpc(published, client)
