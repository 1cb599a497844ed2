"""Encrypted prediction with real processes: what it promises, and what is done to break it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from fedpipe.encrypted import provisioning
from fedpipe.encrypted.client import EncryptedClient
from fedpipe.encrypted.shares import encode_fixed, share
from fedpipe.encrypted.wire import Pair, encode_pair
from tests.system.conftest import Shell

pytestmark = pytest.mark.slow

SECONDS = 420
# A party's TensorFlow port in its namespace, and a look at what is staged there by somebody who knows it.
ROGUE = """
import sys, party.runtime as runtime
tf = runtime.tf
tf.config.experimental_connect_to_host([sys.argv[1]], job_name="rogue")
with tf.device("/job:rogue/replica:0/task:0/device:CPU:0"):
    tf.raw_ops.MapStage(key=tf.constant(1, tf.int64), indices=[0], values=[tf.constant([7])],
                        dtypes=[tf.int32], shared_name="rogue")
    print("REACHED", tf.raw_ops.MapSize(dtypes=[tf.int32], shared_name="rogue").numpy())
"""


class Running:
    """A service of a workspace, with everything that a test does to it."""

    def __init__(self, folder: Path, process: subprocess.Popen[str], workspace: Path) -> None:
        self.folder, self.process, self.workspace = folder, process, workspace

    @property
    def state(self) -> dict[str, Any]:
        path = self.workspace / "encrypted" / "state.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def wait(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + SECONDS
        while not condition(self.state):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, self.state
            time.sleep(0.2)
        return self.state

    def active(self) -> EncryptedClient:
        return EncryptedClient(self.wait(lambda state: state.get("state") == "active")["url"])

    def pid(self, name: str) -> int:
        """Returns the process of this service that calls itself `name`."""
        found = [
            int(path.name)
            for path in Path("/proc").glob("[0-9]*")
            if _command(path) == name and self.process.pid in _ancestors(int(path.name))
        ]
        assert len(found) == 1, found
        return found[0]

    def ticket(self, rows: int = 1) -> dict[str, Any]:
        answer = httpx.post(f"{self.state['url']}/v1/requests", json={"rows": rows})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


def _command(path: Path) -> str:
    try:
        return (path / "comm").read_text().strip()
    except OSError:
        return ""


def _ancestors(pid: int) -> list[int]:
    found = []
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
        found.append(pid)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("encrypted")
    return folder


@pytest.fixture(scope="module")
def shell(folder: Path) -> Shell:
    return Shell(folder)


@pytest.fixture(scope="module")
def service(folder: Path, shell: Shell) -> Iterator[Running]:
    """A service of a model that was trained here."""
    provisioning.install(provisioning.default_home(), print)
    trained = shell.run(
        *("--config", "breast_cancer", "--workspace", "w", "--quiet"), *("--set", "training.num_rounds=3")
    )
    assert trained.code == 0, trained.err
    process = shell.launch(
        *("encrypted", "up", "--model", "breast_cancer", "--workspace", "w", "--operator-sees-rows"),
        *("--port", "0", "--buckets", "1,4", "--deadline-seconds", "5"),
        module="fedpipe",
    )
    running = Running(folder, process, folder / "w")
    try:
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=SECONDS)


def rows_of(client: EncryptedClient, count: int, seed: int = 0) -> np.ndarray[Any, Any]:
    lower, upper = client.card.transform.bounds()
    return np.random.default_rng(seed).uniform(lower, upper, (count, len(lower)))


def send(ticket: dict[str, Any], pairs: tuple[Pair, Pair, Pair], parties: tuple[int, ...] = (0, 1, 2)) -> Any:
    """Returns status and body of each party's answer."""

    def put(index: int) -> tuple[int, bytes]:
        url = f"{ticket['parties'][index]['url']}/v1/shares/{ticket['request_id']}"
        answer = httpx.put(url, content=encode_pair(pairs[index]), timeout=60)
        return answer.status_code, answer.content

    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(put, parties))


def test_probabilities_are_the_models_own(service: Running, folder: Path) -> None:
    with service.active() as client:
        rows = rows_of(client, 9)
        found = client.predict_encoded(rows)
    from fedpipe.learning.architectures import predict
    from server.paper_trail import find_model, show_run

    version = find_model(folder / "w", "breast_cancer")
    weights = folder / "w/runs" / show_run(folder / "w", "last")["run_id"] / "train/weights.npy"
    plain = predict(version.definition, np.load(weights), rows.astype(np.float32))
    assert np.abs(found.probabilities[:, 1] - plain).max() < 1e-3
    assert found.operator_sees_rows


def test_same_row_twice_gives_other_output_shares(service: Running) -> None:
    """The masks of two calls differ; a graph that reuses its nonces makes every share the same."""
    with service.active() as client:
        pairs = share(encode_fixed(rows_of(client, 1), max_magnitude=1e3))
    first, second = (send(service.ticket(), pairs) for _ in range(2))
    assert [status for status, _ in first + second] == [200] * 6
    assert all(one[1] != other[1] for one, other in zip(first, second, strict=True))


def test_request_id_works_once(service: Running) -> None:
    with service.active() as client:
        pairs = share(encode_fixed(rows_of(client, 1), max_magnitude=1e3))
    ticket = service.ticket()
    assert [status for status, _ in send(ticket, pairs)] == [200] * 3
    assert [status for status, _ in send(ticket, pairs)] == [409] * 3


def test_shares_of_a_request_that_never_completes_are_dropped(service: Running) -> None:
    with service.active() as client:
        pairs = share(encode_fixed(rows_of(client, 1), max_magnitude=1e3))
        assert [status for status, _ in send(service.ticket(), pairs, parties=(0, 2))] == [504] * 2
        service.wait(lambda state: state["figures"].get("num_held") == [0, 0, 0])
        assert len(client.predict_encoded(rows_of(client, 2)).labels) == 2


def test_concurrent_clients_get_their_own_answers(service: Running) -> None:
    with service.active() as client:
        url, rows = service.state["url"], rows_of(client, 24)
        expected = client.predict_encoded(rows).probabilities

    def ask(start: int) -> float:
        with EncryptedClient(url) as mine:
            found = [mine.predict_encoded(rows[n : n + 1]).probabilities[0] for n in range(start, 24, 4)]
        return float(np.abs(np.array(found) - expected[start::4]).max())

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(ask, range(4))) < 1e-3


def test_no_share_is_written_to_a_file(service: Running, folder: Path) -> None:
    with service.active() as client:
        pairs = share(encode_fixed(rows_of(client, 1), max_magnitude=1e3))
    ticket = service.ticket()
    answers = send(ticket, pairs)
    secrets = [encode_pair(pair)[16:48] for pair in pairs] + [body[16:24] for _, body in answers]
    secrets.append(ticket["request_id"].encode())
    for path in (folder / "w").rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not any(secret in content for secret in secrets), path


def reach(command: list[str], address: str) -> str:
    done = subprocess.run(
        [*command, str(provisioning.find_environment(provisioning.default_home())), "-c", ROGUE, address],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=provisioning.environment(),
    )
    return done.stdout


def connects(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=2).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("port", range(22310, 22316))
def test_rogue_outside_finds_no_port_of_the_parties(service: Running, port: int) -> None:
    with service.active():
        assert not connects(("127.0.0.1", port))
        probe = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        for prefix in (["unshare", "--map-root-user", "--net"], other_user()):
            done = subprocess.run([*prefix, "python3", "-c", probe], capture_output=True, check=False)
            assert done.returncode != 0


def test_rogue_inside_would_succeed_and_other_users_cannot_get_inside(service: Running) -> None:
    """Shows that the isolation is what keeps the rogue out: in the namespace nothing else does."""
    with service.active():
        enter = [
            "nsenter",
            "--target",
            str(service.pid("party0")),
            "--user",
            "--net",
            "--preserve-credentials",
        ]
        if os.geteuid() == 0 and shutil.which("nsenter"):
            assert "REACHED 1" in reach(enter, "127.0.0.1:22310")
        if other := other_user():
            done = subprocess.run([*other, *enter, "true"], capture_output=True, check=False)
            assert done.returncode != 0


def other_user() -> list[str]:
    """Returns what runs a command as nobody, where this user may."""
    can = os.geteuid() == 0 and shutil.which("setpriv")
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if can else ["env"]


def test_service_recovers_from_a_killed_party_by_itself(service: Running) -> None:
    with service.active() as client:
        rows, before = rows_of(client, 2), service.state["num_recoveries"]
        expected = client.predict_encoded(rows).probabilities
        os.kill(service.pid("party1"), signal.SIGKILL)
        service.wait(lambda state: state["num_recoveries"] > before)
    with service.active() as client:
        assert np.abs(client.predict_encoded(rows).probabilities - expected).max() < 1e-3


def test_service_recovers_from_a_party_that_hangs(service: Running) -> None:
    with service.active() as client:
        before = service.state["num_recoveries"]
        pairs = share(encode_fixed(rows_of(client, 1), max_magnitude=1e3))
    ticket = service.ticket()
    os.kill(service.pid("party2"), signal.SIGSTOP)
    statuses = [status for status, _ in send(ticket, pairs, parties=(0, 1))]
    assert statuses == [504, 504]
    service.wait(lambda state: state["num_recoveries"] > before)
    with service.active() as client:
        assert len(client.predict_encoded(rows_of(client, 1)).labels) == 1


def test_new_version_takes_over_without_a_failed_request(service: Running, shell: Shell) -> None:
    with service.active() as client:
        row = dict.fromkeys(client.card.transform.columns)  # fits every version's transform
    failures: list[BaseException] = []
    versions: set[int] = set()
    stop = threading.Event()

    def ask() -> None:
        with EncryptedClient(service.state["url"]) as mine:
            try:
                while not stop.is_set():
                    versions.add(mine.predict([row]).version)
            except Exception as error:
                failures.append(error)

    caller = threading.Thread(target=ask)
    caller.start()
    try:
        words = ("--config", "breast_cancer", "--workspace", "w", "--quiet", "--seed", "1", "--fresh")
        again = shell.run(*words, "--set", "training.num_rounds=2", "--set", "privacy.epsilon=2")
        assert again.code == 0, again.err
        service.wait(lambda state: bool(state["serves"]) and state["serves"]["version"] == 2)
        deadline = time.monotonic() + SECONDS
        while 2 not in versions and not failures and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        stop.set()
        caller.join()
    assert (failures, versions) == ([], {1, 2})


def test_revoked_version_is_served_no_more(service: Running, shell: Shell) -> None:
    service.active().close()
    words = ("model", "revoke", "breast_cancer", "--workspace", "w", "--reason", "a hospital withdrew")
    assert shell.run(*words, module="fedpipe").code == 0
    service.wait(lambda state: state["state"] == "not active")
    answer = httpx.post(f"{service.state['url']}/v1/requests", json={"rows": 1})
    assert answer.status_code == 503
    assert "revoked: a hospital withdrew" in answer.json()["error"]


def test_down_ends_every_process(service: Running, shell: Shell) -> None:
    assert shell.run("encrypted", "status", "--workspace", "w", module="fedpipe").code == 0
    assert shell.run("encrypted", "down", "--workspace", "w", module="fedpipe").out == "ended\n"
    service.process.wait(timeout=SECONDS)
    assert not [
        path for path in Path("/proc").glob("[0-9]*") if service.process.pid in _ancestors(int(path.name))
    ]
    assert shell.run("encrypted", "status", "--workspace", "w", module="fedpipe").code == 1
