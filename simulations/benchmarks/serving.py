"""`python -m simulations.benchmarks.serving`: a server on one core, beside direct calls of its SavedModel.

The server has one core to itself, callers have the others. Sixteen callers ask for one row each,
over gRPC and over REST; then one caller asks for 256 rows, in turns with direct calls of the same
SavedModel in a process on the server's core. Ratios are between medians of these turns.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CALLERS, PROCESSES, SECONDS, LARGE_BATCH, TURNS = 16, 2, 8.0, 256, 40
NUMBERS, CATEGORIES, WORDS = 8, 5, 100
ADDRESS = "127.0.0.1"
PREDICT = "/tensorflow.serving.PredictionService/Predict"

Ask = Callable[[], object]


def main() -> None:
    """Prints requests per second, latencies and ratios."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        print("Expected at least two cores: one for the server, the others for callers.")
        return
    with tempfile.TemporaryDirectory() as folder, multiprocessing.Pool(1, _pin, (cores[:1],)) as pool:
        pool.apply(export_mlp, (Path(folder) / "mlp" / "1",))
        with server_on(cores[0], Path(folder)) as ports:
            os.sched_setaffinity(0, cores[1:])
            for kind in ("grpc", "rest"):
                report_load(kind, ports[kind])
            for kind in ("grpc", "rest"):
                report_large_batches(kind, ports[kind], pool, Path(folder) / "mlp" / "1")
    print(f"Load average at the end: {os.getloadavg()[0]:.1f} (other processes slow both sides).")


def report_load(kind: str, port: int) -> None:
    """Prints what sixteen callers got."""
    context = multiprocessing.get_context("spawn")
    queue: Any = context.Queue()
    # They start together: who still imports would take the core from who already measures.
    barrier = context.Barrier(PROCESSES)
    arguments = (kind, port, queue, barrier)
    callers = [context.Process(target=_call_repeatedly, args=arguments) for _ in range(PROCESSES)]
    for process in callers:
        process.start()
    found = [queue.get() for _ in callers]
    for process in callers:
        process.join()
    waits = sorted(wait for part in found for wait in part)
    p50, p99 = (1000 * waits[int(len(waits) * share)] for share in (0.5, 0.99))
    print(
        f"{kind}, {CALLERS} callers: {len(waits) / SECONDS:.0f} requests/s, "
        f"p50 {p50:.2f} ms, p99 {p99:.2f} ms"
    )


def report_large_batches(kind: str, port: int, pool: Any, model: Path) -> None:
    """Prints what a large batch costs beside a direct call."""
    ask = make_ask(kind, port, LARGE_BATCH)
    served, direct = [], []
    for _ in range(TURNS):
        start = time.perf_counter()
        ask()
        served.append(time.perf_counter() - start)
        direct.append(pool.apply(call_directly, (str(model), LARGE_BATCH)))
    # The first turns load and trace.
    times = [1000 * statistics.median(part[3:]) for part in (served, direct)]
    print(
        f"{kind}, {LARGE_BATCH} rows: {times[0]:.2f} ms, direct {times[1]:.2f} ms, "
        f"{times[0] / times[1]:.2f} x direct"
    )


def make_row() -> dict[str, str]:
    """Returns one record as text."""
    numbers = {f"number_{index}": "37.5" for index in range(NUMBERS)}
    return numbers | {f"category_{index}": "word 5" for index in range(CATEGORIES)}


def make_ask(kind: str, port: int, num_rows: int) -> Ask:
    """Returns a function that sends one ready request over a connection of its own."""
    return _ask_grpc(port, num_rows) if kind == "grpc" else _ask_rest(port, num_rows)


def export_mlp(directory: Path) -> None:
    """Writes an untrained MLP over numbers and categories."""
    from fedpipe.data import Transform
    from fedpipe.data.transform import NumericFeature, VocabularyFeature
    from fedpipe.learning import ModelDefinition, ModelSettings
    from fedpipe.learning.architectures import initial_weights
    from fedpipe.learning.serving import export_model

    words = tuple(f"word {index}" for index in range(WORDS))
    numbers = [
        NumericFeature(column=f"number_{index}", lower=0, upper=99, center=31, scale=11)
        for index in range(NUMBERS)
    ]
    categories = [VocabularyFeature(column=f"category_{index}", words=words) for index in range(CATEGORIES)]
    transform = Transform(features=(*numbers, *categories), missing_tokens=("",))
    settings = ModelSettings.model_validate({"type": "mlp"})
    definition = ModelDefinition(settings=settings, num_features=transform.num_features, num_classes=2)
    export_model(
        directory,
        transform=transform,
        definition=definition,
        weights=initial_weights(definition, 0),
        class_names=("no", "yes"),
    )


_loaded: dict[str, Any] = {}


def call_directly(model: str, num_rows: int) -> float:
    """Returns the seconds of one call with cells as Python text, as a program without a server has them."""
    from fedpipe.learning.serving import load_signature
    from fedpipe.learning.tensorflow_runtime import tf

    if model not in _loaded:
        _loaded[model] = load_signature(Path(model))
    columns = {name: [[cell]] * num_rows for name, cell in make_row().items()}
    start = time.perf_counter()
    _loaded[model](**{name: tf.constant(cells) for name, cells in columns.items()})["probability"].numpy()
    return time.perf_counter() - start


@contextmanager
def server_on(core: int, models: Path) -> Iterator[dict[str, int]]:
    """Gives the ports of a server that has one core."""
    command = [sys.executable, "-m", "fedpipe", "serve", "--models", str(models)]
    process = subprocess.Popen(
        ["taskset", "-c", str(core), *command, "--rest-port", "0", "--grpc-port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        lines = ""
        for line in process.stdout or ():
            lines += line
            if line.startswith("gRPC"):
                break
        ports = dict(re.findall(r"^(REST|gRPC) .*:(\d+)", lines, re.MULTILINE))
        yield {kind.lower(): int(port) for kind, port in ports.items()}
    finally:
        process.terminate()
        process.wait()


def _ask_rest(port: int, num_rows: int) -> Ask:
    """Sends ready bytes over a socket: Python's HTTP clients take longer than the server, on fewer cores."""
    row = {name: [cell] for name, cell in make_row().items()}
    body = json.dumps({"instances": [row] * num_rows}).encode()
    head = f"POST /v1/models/mlp:predict HTTP/1.1\r\nHost: {ADDRESS}\r\nContent-Length: {len(body)}\r\n\r\n"
    message = head.encode() + body
    connection = socket.create_connection((ADDRESS, port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask() -> None:
        connection.sendall(message)
        head, _, rest = _receive_head(connection).partition(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: (\d+)", head)
        if not head.startswith(b"HTTP/1.1 200 ") or length is None:
            raise RuntimeError(head)
        missing = int(length[1]) - len(rest)
        while missing > 0:
            missing -= len(connection.recv(missing))

    return ask


def _receive_head(connection: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        part = connection.recv(1 << 16)
        if not part:
            raise RuntimeError("The server hung up.")
        received += part
    return received


def _ask_grpc(port: int, num_rows: int) -> Ask:
    import grpc
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "mlp"
    for name, cell in make_row().items():
        tensor = request.inputs[name]
        tensor.dtype = 7  # DT_STRING
        tensor.string_val.extend([cell.encode()] * num_rows)
        for size in (num_rows, 1):
            tensor.tensor_shape.dim.add(size=size)
    # Callers have a connection each, as clients on different machines do.
    channel = grpc.insecure_channel(f"{ADDRESS}:{port}", [("grpc.use_local_subchannel_pool", 1)])
    call = channel.unary_unary(PREDICT)
    message = request.SerializeToString()
    return lambda: call(message, timeout=30)


def _call_repeatedly(kind: str, port: int, queue: Any, barrier: Any) -> None:
    waits: list[float] = []
    asks = [make_ask(kind, port, 1) for _ in range(CALLERS // PROCESSES)]
    for ask in asks:
        ask()
    barrier.wait()
    end = time.perf_counter() + SECONDS
    threads = [threading.Thread(target=_repeat, args=(ask, end, waits)) for ask in asks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    queue.put(waits)


def _repeat(ask: Ask, end: float, waits: list[float]) -> None:
    while (start := time.perf_counter()) < end:
        ask()
        waits.append(time.perf_counter() - start)


def _pin(cores: list[int]) -> None:
    os.sched_setaffinity(0, cores)


if __name__ == "__main__":
    main()
