"""A running `fedpipe encrypted up`, and what tests do to it."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from fedpipe.encrypted.client import EncryptedClient
from fedpipe.encrypted.wire import Pair, encode_pair
from tests.system.conftest import Shell

SECONDS = 600
HEADER_BYTES = 16  # of a pair of two dimensions
TIE = 2e-3  # labels of rows this close to a tie may differ
Floats = NDArray[np.float64]


class Running:
    """A service of the workspace `w` in a folder."""

    def __init__(self, shell: Shell, process: subprocess.Popen[str]) -> None:
        self.process, self.workspace = process, shell.folder / "w"

    @property
    def state(self) -> dict[str, Any]:
        path = self.workspace / "encrypted" / "state.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def wait(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + SECONDS
        while not condition(state := self.state):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, state
            time.sleep(0.2)
        return state

    def url(self) -> str:
        found: str = self.wait(lambda state: state.get("state") == "active")["url"]
        return found

    def active(self, **settings: Any) -> EncryptedClient:
        return EncryptedClient(self.url(), **settings)

    def pid(self, name: str) -> int:
        """Returns the process of this service that calls itself `name`."""
        found = [pid for pid in self.processes() if _read(pid, "comm").strip() == name]
        assert len(found) == 1, found
        return found[0]

    def processes(self) -> list[int]:
        """Returns the processes that descend from the service's."""
        pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
        return [pid for pid in pids if self.process.pid in _ancestors(pid)]

    def ticket(self, rows: int = 1) -> dict[str, Any]:
        answer = httpx.post(f"{self.url()}/v1/requests", json={"rows": rows})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


@contextmanager
def up(shell: Shell, model: str, *words: str) -> Iterator[Running]:
    """Yields a service of a model in the workspace `w`; ends it."""
    process = shell.launch(
        *("encrypted", "up", "--model", model, "--workspace", "w", "--port", "0"), *words, module="fedpipe"
    )
    try:
        yield Running(shell, process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=SECONDS)


def train(shell: Shell, config: str, *words: str) -> None:
    trained = shell.run("--config", config, "--workspace", "w", "--quiet", *words)
    assert trained.code == 0, trained.err


def rows_of(client: EncryptedClient, count: int, seed: int = 0) -> Floats:
    """Returns model inputs that the version's transform can make."""
    lower, upper = client.card.transform.bounds()
    return np.random.default_rng(seed).uniform(lower, upper, (count, len(lower)))


def check_agreement(found: Floats, served: Floats) -> None:
    """Checks that probabilities on shares, (n, classes), are those of the served model."""
    if served.ndim == 1:
        served = np.stack([1 - served, served], axis=1)
    assert np.abs(found - served).max() <= 1e-3
    best = np.sort(served, axis=1)
    clear = best[:, -1] - best[:, -2] > TIE
    assert clear.mean() > 0.5
    assert (found.argmax(axis=1) == served.argmax(axis=1))[clear].mean() > 0.999


def send(
    ticket: dict[str, Any], pairs: Sequence[Pair], parties: Sequence[int] = (0, 1, 2)
) -> list[tuple[int, bytes]]:
    """Returns status and body of each party's answer."""

    def put(index: int) -> tuple[int, bytes]:
        url = f"{ticket['parties'][index]['url']}/v1/shares/{ticket['request_id']}"
        answer = httpx.put(url, content=encode_pair(pairs[index]), timeout=60)
        return answer.status_code, answer.content

    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(put, parties))


@contextmanager
def at_work(service: Running, num_clients: int = 2) -> Iterator[None]:
    """Has clients ask all the time: every answer must come, and be that of the client's own row."""
    stop, url = threading.Event(), service.url()
    with EncryptedClient(url) as client:
        rows = rows_of(client, 8 * num_clients)
        expected = client.predict_encoded(rows).probabilities

    def ask(number: int) -> int:
        answers = 0
        with EncryptedClient(url, timeout_seconds=SECONDS) as mine:
            while not stop.is_set():
                row = (number + num_clients * answers) % len(rows)
                found = mine.predict_encoded(rows[row : row + 1]).probabilities
                assert np.abs(found - expected[row]).max() < 1e-3
                answers += 1
        return answers

    with ThreadPoolExecutor(num_clients) as pool:
        asking = [pool.submit(ask, number) for number in range(num_clients)]
        try:
            yield
        finally:
            stop.set()
    assert all(each.result() for each in asking)


@contextmanager
def lying_party(front_end: str, index: int, share: int) -> Iterator[str]:
    """Yields a front end whose party `index` adds one to one of its two shares of the answer."""
    truth: dict[str, str] = {}

    class Liar(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            content = self.rfile.read(int(self.headers.get("content-length") or 0))
            origin = truth["party"] if self.command == "PUT" else front_end
            kind = {"content-type": self.headers.get("content-type", "")}
            answer = httpx.request(
                self.command, origin + self.path, content=content, headers=kind, timeout=60
            )
            body = {"POST": _redirect, "PUT": _lie}.get(self.command, bytes)(answer.content)
            self.send_response(answer.status_code)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = handle_any  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    def _redirect(body: bytes) -> bytes:
        ticket = json.loads(body)
        truth["party"], ticket["parties"][index]["url"] = ticket["parties"][index]["url"], url
        return json.dumps(ticket).encode()

    def _lie(body: bytes) -> bytes:
        shares = np.frombuffer(body, "<i8", offset=HEADER_BYTES).reshape(2, -1).copy()
        shares[share, 0] += 1
        return body[:HEADER_BYTES] + shares.tobytes()

    with ThreadingHTTPServer(("127.0.0.1", 0), Liar) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield url
        server.shutdown()


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return ""


def _ancestors(pid: int) -> list[int]:
    found: list[int] = []
    while pid > 1 and (stat := _read(pid, "stat")):
        pid = int(stat.rpartition(")")[2].split()[1])
        found.append(pid)
    return found
