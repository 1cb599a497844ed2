"""Encrypted prediction with real processes: what it promises, and what is done to break it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pandas as pd
import pytest

from fedpipe.encrypted import provisioning
from fedpipe.encrypted.client import EncryptedClient
from fedpipe.encrypted.shares import encode_fixed, share
from fedpipe.encrypted.wire import Pair, encode_pair
from fedpipe.errors import EncryptedError
from tests.system.conftest import Shell
from tests.system.encrypted_service import (
    SECONDS,
    Running,
    at_work,
    check_agreement,
    lying_party,
    rows_of,
    send,
    train,
    up,
)

pytestmark = pytest.mark.slow

PORTS = list(range(22310, 22317))  # inside a committee's namespace
MLP = ("--set", "training.num_rounds=3", "--set", "model.type=mlp", "--set", "privacy.epsilon=2")
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


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(tmp_path_factory.mktemp("encrypted"))


@pytest.fixture(scope="module")
def service(shell: Shell) -> Iterator[Running]:
    """A service of a logistic regression that was trained here."""
    provisioning.install(provisioning.default_home(), print)
    train(shell, "breast_cancer", "--set", "training.num_rounds=3")
    words = ("--operator-sees-rows", "--accept-raw-rows", "--buckets", "1,256", "--deadline-seconds", "8")
    with up(shell, "breast_cancer", *words) as running:
        yield running


def shared_row(client: EncryptedClient) -> tuple[Pair, Pair, Pair]:
    return share(encode_fixed(rows_of(client, 1), max_magnitude=1e3))


def raw_rows(client: EncryptedClient, count: int) -> pd.DataFrame:
    """Returns records of numbers as text, of which some lie outside their declared ranges."""
    generator = np.random.default_rng(1)
    columns = {name: generator.exponential(100.0, count) for name in client.card.transform.columns}
    scaled = pd.DataFrame(columns) / 10.0 ** generator.integers(0, 6, len(columns))
    return scaled.astype(str).astype(object)


def served(shell: Shell, version: int, frame: pd.DataFrame) -> Any:
    from fedpipe.learning.serving import load_signature, predict_frame

    model = shell.folder / "w" / "models" / "breast_cancer" / str(version)
    return predict_frame(load_signature(model), frame, list(frame.columns))


def test_logistic_regression_answers_as_the_served_model(service: Running, shell: Shell) -> None:
    with service.active() as client:
        frame = raw_rows(client, 1000)
        found = client.predict(frame.to_dict("records"))
    check_agreement(found.probabilities, served(shell, 1, frame))
    assert found.operator_sees_rows


def test_same_row_twice_gives_other_output_shares(service: Running) -> None:
    """The masks of two calls differ; a graph that reuses its nonces makes every share the same."""
    with service.active() as client:
        pairs = shared_row(client)
    first, second = (send(service.ticket(), pairs) for _ in range(2))
    assert [status for status, _ in first + second] == [200] * 6
    assert all(one[1] != other[1] for one, other in zip(first, second, strict=True))


def test_connection_that_rested_is_still_open(service: Running) -> None:
    """Or a request could meet its end: httpx lets a connection rest for 5 s, and uvicorn would as well."""
    connection = HTTPConnection(urlsplit(service.url()).netloc, timeout=60)
    for seconds in (7, 0):
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        assert connection.sock is not None
        time.sleep(seconds)
    connection.close()


def test_request_id_works_once(service: Running) -> None:
    with service.active() as client:
        pairs = shared_row(client)
    ticket = service.ticket()
    assert [status for status, _ in send(ticket, pairs)] == [200] * 3
    assert [status for status, _ in send(ticket, pairs)] == [409] * 3


@pytest.mark.parametrize(("party", "held"), [(0, 0), (1, 1), (2, 0)])
def test_party_that_lies_about_its_output_is_found(service: Running, party: int, held: int) -> None:
    with (
        lying_party(service.url(), party, held) as url,
        EncryptedClient(url) as client,
        pytest.raises(EncryptedError, match="to hold the same share"),
    ):
        client.predict_encoded(rows_of(client, 1))


def test_words_beyond_every_range_harm_nobody_else(service: Running) -> None:
    """A client that checks nothing gets nonsense; those whose rows are computed with its do not."""
    with service.active() as client:
        rows = rows_of(client, 8)
        expected = client.predict_encoded(rows).probabilities
        huge = share(np.full((1, rows.shape[1]), np.iinfo(np.int64).max - 7))
        with ThreadPoolExecutor(4) as pool:
            hostile = [pool.submit(send, service.ticket(), huge) for _ in range(3)]
            found = client.predict_encoded(rows).probabilities
        assert all(status == 200 for each in hostile for status, _ in each.result())
    assert np.abs(found - expected).max() < 1e-3


def test_rows_in_the_clear_are_answered_alike_and_the_answer_says_who_saw_them(
    service: Running, shell: Shell
) -> None:
    with service.active() as client:
        frame = raw_rows(client, 3)
    body = {"instances": frame.to_dict("records")}
    answer = httpx.post(f"{service.url()}/v1/predict", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["operator_sees_rows"]
    check_agreement(np.array(answer.json()["probabilities"]), served(shell, 1, frame))
    body["instances"][0].popitem()
    refused = httpx.post(f"{service.url()}/v1/predict", json=body, timeout=60)
    assert (refused.status_code, "row 1" in refused.json()["error"]) == (400, True)


def test_shares_of_a_request_that_never_completes_are_dropped(service: Running) -> None:
    with service.active() as client:
        pairs = shared_row(client)
        assert [status for status, _ in send(service.ticket(), pairs, parties=(0, 2))] == [504] * 2
        service.wait(lambda state: state["figures"].get("num_held") == [0, 0, 0])
        assert len(client.predict_encoded(rows_of(client, 2)).labels) == 2


def test_concurrent_clients_get_their_own_answers(service: Running) -> None:
    with service.active() as client:
        url, rows = service.url(), rows_of(client, 24)
        expected = client.predict_encoded(rows).probabilities

    def ask(start: int) -> float:
        with EncryptedClient(url) as mine:
            found = [mine.predict_encoded(rows[n : n + 1]).probabilities[0] for n in range(start, 24, 4)]
        return float(np.abs(np.array(found) - expected[start::4]).max())

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(ask, range(4))) < 1e-3


def test_no_share_is_written_to_a_file(service: Running) -> None:
    with service.active() as client:
        pairs = shared_row(client)
    ticket = service.ticket()
    answers = send(ticket, pairs)
    secrets = [encode_pair(pair)[16:48] for pair in pairs] + [body[16:24] for _, body in answers]
    secrets.append(ticket["request_id"].encode())
    for path in service.workspace.rglob("*"):
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


def test_rogue_outside_finds_no_port_of_the_parties(service: Running) -> None:
    service.url()
    # In bash, since another user may not be let into the folder of this Python.
    probe = "for port; do (</dev/tcp/127.0.0.1/$port) 2>&- && exit 1; done; exit 0"
    for prefix in ([], ["unshare", "--map-root-user", "--net"], other_user()):
        subprocess.run([*prefix, "bash", "-c", probe, "probe", *map(str, PORTS)], check=True)


def test_rogue_inside_would_succeed_and_other_users_cannot_get_inside(service: Running) -> None:
    """Shows that the isolation is what keeps the rogue out: in the namespace nothing else does."""
    service.url()
    enter = ["nsenter", "--target", str(service.pid("party0")), "--user", "--net", "--preserve-credentials"]
    if os.geteuid() == 0 and shutil.which("nsenter"):
        assert "REACHED 1" in reach(enter, f"127.0.0.1:{PORTS[0]}")
    if other := other_user():
        done = subprocess.run([*other, *enter, "true"], capture_output=True, check=False)
        assert done.returncode != 0


def other_user() -> list[str]:
    """Returns what runs a command as nobody, where this user may."""
    can = os.geteuid() == 0 and shutil.which("setpriv")
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if can else ["env"]


@pytest.mark.parametrize(("party", "number"), [("party1", signal.SIGKILL), ("party2", signal.SIGSTOP)])
def test_two_clients_get_their_answers_while_a_party_dies_or_hangs(
    service: Running, party: str, number: signal.Signals
) -> None:
    with at_work(service):
        before = service.state["num_recoveries"]
        os.kill(service.pid(party), number)
        service.wait(lambda state: state["num_recoveries"] > before)
        service.url()


def test_request_that_a_party_hangs_on_is_refused_at_its_deadline(service: Running) -> None:
    with service.active() as client:
        before = service.state["num_recoveries"]
        pairs = shared_row(client)
    ticket = service.ticket()
    os.kill(service.pid("party2"), signal.SIGSTOP)
    assert [status for status, _ in send(ticket, pairs, parties=(0, 1))] == [504, 504]
    service.wait(lambda state: state["num_recoveries"] > before)


def test_new_version_takes_over_without_a_failed_request(service: Running, shell: Shell) -> None:
    with service.active() as client:
        row = dict.fromkeys(client.card.transform.columns)  # fits every version's transform
    failures: list[BaseException] = []
    versions: set[int] = set()
    stop = threading.Event()

    def ask() -> None:
        # Two, since a new version's transform wants the row encoded again.
        with service.active(attempts=2) as mine:
            try:
                while not stop.is_set():
                    versions.add(mine.predict([row]).version)
            except Exception as error:
                failures.append(error)

    caller = threading.Thread(target=ask)
    caller.start()
    try:
        train(shell, "breast_cancer", *("--seed", "1", "--fresh", *MLP))
        service.wait(lambda state: bool(failures or (state["serves"] and state["serves"]["version"] == 2)))
        deadline = time.monotonic() + SECONDS
        while 2 not in versions and not failures and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        stop.set()
        caller.join()
    assert (failures, versions) == ([], {1, 2})


def test_multilayer_perceptron_answers_as_the_served_model(service: Running, shell: Shell) -> None:
    with service.active(version=2) as client:
        frame = raw_rows(client, 10_000)
        found = client.predict(frame.to_dict("records"))
    check_agreement(found.probabilities, served(shell, 2, frame))


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
    before = service.processes()
    assert shell.run("encrypted", "down", "--workspace", "w", module="fedpipe").out == "ended\n"
    service.process.wait(timeout=SECONDS)
    assert not [pid for pid in before if Path(f"/proc/{pid}").exists()]
    assert shell.run("encrypted", "status", "--workspace", "w", module="fedpipe").code == 1
