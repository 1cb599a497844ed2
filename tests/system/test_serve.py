"""A server process under load: versions come and go, and no request notices."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.system.conftest import Shell

pytestmark = pytest.mark.slow

NUM_CALLERS = 8
VERSIONS = (1, 2, 3, 4)


def save_version(directory: Path, version: int) -> None:
    """Writes a model that answers with its version."""
    from fedpipe.learning.tensorflow_runtime import tf

    module = tf.Module()
    module.version = tf.Variable(float(version))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def answer(x: Any) -> Any:
        return {"version": 0.0 * x + module.version}

    tf.saved_model.save(module, str(directory), signatures={"serving_default": answer})


class Load:
    """Callers that ask in a circle until they are stopped, and count the answers and the failures."""

    def __init__(self, rest: str, grpc_target: str) -> None:
        self.answers: Counter[float] = Counter()
        self.failures: list[str] = []
        self._rest, self._grpc = rest, grpc_target
        self._stop = threading.Event()
        asks = [self._over_rest, self._over_grpc]
        self._threads = [threading.Thread(target=asks[number % 2]) for number in range(NUM_CALLERS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _over_rest(self) -> None:
        with httpx.Client(base_url=self._rest) as client:
            self._repeat(lambda: self._ask_rest(client))

    def _ask_rest(self, client: httpx.Client) -> float:
        answer = client.post("/v1/models/echo:predict", json={"instances": [1.0]})
        assert answer.status_code == 200, answer.text
        return float(answer.json()["predictions"][0])

    def _over_grpc(self) -> None:
        import grpc
        from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

        from fedpipe.learning.tensorflow_runtime import tf

        request = predict_pb2.PredictRequest()
        request.model_spec.name = "echo"
        request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.float32([1.0])))
        with grpc.insecure_channel(self._grpc) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            self._repeat(lambda: float(stub.Predict(request, timeout=30).outputs["version"].float_val[0]))

    def _repeat(self, ask: Callable[[], float]) -> None:
        while not self._stop.is_set():
            self._ask_once(ask)

    def _ask_once(self, ask: Callable[[], float]) -> None:
        try:
            self.answers[ask()] += 1
        except Exception as error:
            self.failures.append(f"{type(error).__name__}: {error}")


def start(shell: Shell, models: Path, *options: str) -> tuple[subprocess.Popen[str], str, str]:
    """Starts a server on free ports; returns it with its REST address and its gRPC target."""
    ports = ("--rest-port", "0", "--grpc-port", "0", "--poll-seconds", "0.2")
    process = shell.launch("serve", "--models", str(models), *ports, *options, module="fedpipe")
    assert process.stdout is not None
    lines = ""
    for line in process.stdout:
        lines += line
        if line.startswith("gRPC"):
            break
    rest, target = re.search(r"REST +(\S+)", lines), re.search(r"gRPC +(\S+)", lines)
    assert rest, lines
    assert target, lines
    return process, rest[1], target[1]


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_versions_are_swapped_under_load_without_a_failed_request(shell: Shell, tmp_path: Path) -> None:
    made, served = tmp_path / "made", tmp_path / "models" / "echo"
    for version in VERSIONS:
        save_version(made / str(version), version)
    shutil.copytree(made / "1", served / "1")
    process, rest, target = start(shell, tmp_path / "models")
    try:
        with Load(rest, target) as load:
            wait_until(lambda: load.answers[1.0] > 50)
            for version in VERSIONS[1:]:
                # As a copy over a network does: file by file, the model before its variables.
                shutil.copytree(
                    made / str(version), served / str(version), ignore=shutil.ignore_patterns("variables*")
                )
                time.sleep(0.3)
                variables = Path(str(version), "variables")
                shutil.copytree(made / variables, served / variables)
                wait_until(lambda version=version: load.answers[float(version)] > 50)  # type: ignore[misc]
                shutil.rmtree(served / str(version - 1))
            (served / "5").mkdir()
            (served / "5" / "saved_model.pb").write_bytes(b"broken")
            time.sleep(1)
            before = load.answers[4.0]
            wait_until(lambda: load.answers[4.0] > before + 50)
        assert load.failures == []
        assert set(load.answers) == {float(version) for version in VERSIONS}
        states = httpx.get(f"{rest}/v1/models/echo").json()["model_version_status"]
        assert {state["version"]: state["state"] for state in states} == {
            **{str(version): "END" for version in (1, 2, 3, 5)},
            "4": "AVAILABLE",
        }
    finally:
        process.send_signal(signal.SIGTERM)
        done = shell.finish(process)
    assert done.code == 0, done.err


def test_the_printed_line_works_and_a_stop_lets_requests_finish(shell: Shell, tmp_path: Path) -> None:
    save_version(tmp_path / "models" / "echo" / "1", 1)
    process = shell.launch(
        *("serve", "--models", str(tmp_path / "models"), "--rest-port", "0", "--grpc-port", "-1"),
        module="fedpipe",
    )
    assert process.stdout is not None
    found = None
    for line in process.stdout:
        if line.startswith("Try:"):
            found = line.partition("Try:")[2]
            break
    assert found
    answer = subprocess.run(["/bin/sh", "-c", f"{found.strip()} -s"], capture_output=True, check=True)
    assert json.loads(answer.stdout) == {"predictions": [1.0]}
    url = re.search(r"http://[0-9.:]+", found)
    assert url

    def slow_body() -> Any:
        yield b'{"instances": '
        os.kill(process.pid, signal.SIGTERM)
        time.sleep(0.5)
        yield b"[1.0]}"

    assert httpx.post(f"{url[0]}/v1/models/echo:predict", content=slow_body()).json() == {
        "predictions": [1.0]
    }
    assert shell.finish(process).code == 0
