"""A version answers its recorded warm-up requests before it serves, and requests have a time limit."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from tensorflow_serving.apis import prediction_log_pb2

from fedpipe.learning.tensorflow_runtime import tf
from server.prediction.errors import ServingError
from server.prediction.servable import Servable
from server.prediction.service import Limits
from server.prediction.signatures import Signature
from server.prediction.warmup import recorded_requests
from tests.unit.server.prediction.conftest import Served, floats, serve

FILE = Path("assets.extra") / "tf_serving_warmup_requests"


def log(kind: str, *values: float, signature: str = "") -> Any:
    found = prediction_log_pb2.PredictionLog()
    request = getattr(found, f"{kind}_log").request
    request.model_spec.signature_name = signature
    if kind == "predict":
        request.inputs["x"].CopyFrom(tf.make_tensor_proto(floats(*values)))
    else:
        example = request.input.example_list.examples.add()
        example.features.feature["x"].float_list.value.extend(values)
    return found


def record(model: Path, records: Iterable[bytes]) -> None:
    (model / FILE).parent.mkdir()
    with tf.io.TFRecordWriter(str(model / FILE)) as writer:
        for one in records:
            writer.write(one)


def test_recorded_requests_are_run_one_after_the_other(half: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(half, tmp_path / "1"))
    logs = [log("predict", 1.0, 2.0), log("regress", 1.0), log("classify", 0.5), log("predict", 7.0)]
    record(model, [one.SerializeToString() for one in logs])
    servable = Servable(model, num_threads=1)
    ran: list[tuple[str, Any]] = []
    run = servable.run

    def note(signature: Signature, inputs: Any, outputs: tuple[str, ...]) -> Any:
        ran.append((signature.name, inputs[0].tolist()))
        return run(signature, inputs, outputs)

    servable.run = note  # type: ignore[method-assign]
    servable.warm_up(model)
    assert [name for name, _ in ran[:4]] == ["serving_default", "regress", "classify", "serving_default"]
    assert (ran[0][1], ran[3][1]) == ([1.0, 2.0], [7.0])
    assert len(list(recorded_requests(model / FILE, servable.signatures, 2))) == 2
    servable.close()


def test_a_file_of_records_that_is_damaged_stops_only_its_version(half: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(half, tmp_path / "half" / "1"))
    record(model, [log("predict", 1.0).SerializeToString()])
    (model / FILE).write_bytes((model / FILE).read_bytes()[:-1])

    async def use(served: Served) -> None:
        [state] = (await served.get("half"))["model_version_status"]
        assert state["state"] == "END"
        assert "tf_serving_warmup_requests" in state["status"]["error_message"]

    serve(tmp_path, use)


def test_a_failure_that_nobody_foresaw_ends_only_its_version(
    half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Servable, "warm_up", fail)
    shutil.copytree(half, tmp_path / "half" / "1")

    async def use(served: Served) -> None:
        [state] = (await served.get("half"))["model_version_status"]
        assert (state["state"], state["status"]["error_code"]) == ("END", "INTERNAL")

    serve(tmp_path, use)


@pytest.mark.parametrize(
    "bad", [b"no log", log("predict", 1.0, signature="no").SerializeToString()], ids=["bytes", "signature"]
)
def test_a_version_whose_warm_up_fails_does_not_serve(half: Path, tmp_path: Path, bad: bytes) -> None:
    shutil.copytree(half, tmp_path / "half" / "1")
    record(Path(shutil.copytree(half, tmp_path / "half" / "2")), [bad])

    async def use(served: Served) -> None:
        states = (await served.get("half"))["model_version_status"]
        assert {one["version"]: one["state"] for one in states} == {"1": "AVAILABLE", "2": "END"}
        assert await served.post("half:predict", {"instances": [1.0]}) == {"predictions": [2.5]}

    serve(tmp_path, use)


class Slow(tf.Module):
    """Counts to its input."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def count(self, x: Any) -> Any:
        top = tf.reduce_max(x)
        [end] = tf.while_loop(lambda i: i < top, lambda i: [i + 1.0], [tf.constant(0.0)])
        return {"y": x * 0.0 + end}


def test_a_request_that_takes_too_long_is_told_so_and_the_next_is_answered(tmp_path: Path) -> None:
    slow = Slow()
    tf.saved_model.save(slow, str(tmp_path / "slow" / "1"), signatures={"serving_default": slow.count})

    async def use(served: Served) -> None:
        answer = await served.web.post("/v1/models/slow:predict", json={"instances": [3_000_000.0]})
        assert answer.status_code == 504
        loaded = served.repository.models.by_name["slow"].loaded[1]
        signature = loaded.servable.signatures["serving_default"]
        with pytest.raises(ServingError, match="within the time"):
            await served.service.predict(
                loaded, signature, [floats(3_000_000.0)], ("y",), timeout_seconds=0.01
            )

    serve(tmp_path, use, limits=Limits(timeout_seconds=0.05))

    async def use_again(served: Served) -> None:
        assert await served.post("slow:predict", {"instances": [3.0]}) == {"predictions": [3.0]}

    serve(tmp_path, use_again)
