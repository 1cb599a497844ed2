"""Parties on three hosts, which are three processes with addresses of their own here."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fedpipe.encrypted import provisioning
from fedpipe.encrypted.client import EncryptedClient
from tests.system.conftest import Shell
from tests.system.encrypted_service import Running, rows_of, train, up
from tests.unit.encrypted.certificates import LOCAL, Authority

pytestmark = pytest.mark.slow


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("hosts")
    return folder


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority.create(folder)


@pytest.fixture(scope="module")
def deployment(folder: Path) -> dict[str, Any]:
    ports = free_ports(10)
    content = {
        "coordinator": f"127.0.0.1:{ports[0]}",
        "parties": [
            {"tunnel": f"127.0.0.1:{ports[1 + index]}", "client_ports": ports[4 + 2 * index : 6 + 2 * index]}
            for index in range(3)
        ],
        "operators_differ": True,
    }
    (folder / "deployment.yaml").write_text(yaml.safe_dump(content))
    return content


@pytest.fixture(scope="module")
def hosts(
    folder: Path, authority: Authority, deployment: dict[str, Any]
) -> Iterator[list[subprocess.Popen[str]]]:
    provisioning.install(provisioning.default_home(), print)
    clients = authority.issue(*LOCAL)
    shell = Shell(folder)
    started = [start_host(shell, authority, clients, index) for index in range(3)]
    try:
        yield started
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)


def start_host(
    shell: Shell, authority: Authority, clients: tuple[Path, Path], index: int
) -> subprocess.Popen[str]:
    certificate, key = authority.issue(f"party{index}")
    return shell.launch(
        *("encrypted", "party", "--deployment", "deployment.yaml", "--index", str(index)),
        *("--tls-cert", str(clients[0]), "--tls-key", str(clients[1]), "--host", "127.0.0.1"),
        *("--tunnel-cert", str(certificate), "--tunnel-key", str(key)),
        *("--tunnel-authority", str(authority.path), "--folder", f"party{index}"),
        module="fedpipe",
    )


@pytest.fixture(scope="module")
def service(folder: Path, authority: Authority, hosts: Any) -> Iterator[Running]:
    shell = Shell(folder)
    train(shell, "breast_cancer", "--set", "training.num_rounds=3")
    certificate, key = authority.issue("coordinator")
    words = (
        *("--buckets", "1", "--deployment", "deployment.yaml", "--party-authority", str(authority.path)),
        *("--tunnel-cert", str(certificate), "--tunnel-key", str(key)),
        *("--tunnel-authority", str(authority.path)),
    )
    with up(shell, "breast_cancer", *words) as running:
        yield running


def client_of(service: Running, authority: Authority) -> EncryptedClient:
    return service.active(verify=ssl.create_default_context(cafile=str(authority.path)))


def test_parties_on_three_hosts_predict(service: Running, authority: Authority) -> None:
    with client_of(service, authority) as client:
        found = client.predict_encoded(rows_of(client, 6))
    assert not found.operator_sees_rows
    assert np.allclose(found.probabilities.sum(axis=1), 1)
    assert all(url.startswith("https://") for url in service.state["parties"])


def greet(deployment: dict[str, Any], context: ssl.SSLContext, greeting: dict[str, Any]) -> bytes:
    """Returns what a party's host answers to somebody who came to its tunnel."""
    host, _, port = deployment["parties"][0]["tunnel"].rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=20) as plain,
        closing(context.wrap_socket(plain, server_hostname="party0")) as secure,
    ):
        try:
            secure.sendall(json.dumps(greeting).encode() + b"\n")
            return secure.recv(100)
        except OSError:  # under TLS 1.3 the refusal comes after the handshake
            return b""


def test_strangers_cannot_enter_a_tunnel(
    service: Running, authority: Authority, deployment: dict[str, Any], tmp_path: Path
) -> None:
    client_of(service, authority).close()
    context = ssl.create_default_context(cafile=str(authority.path))
    assert greet(deployment, context, {"committee": "x", "port": 22310}) == b""
    context.load_cert_chain(*Authority.create(tmp_path).issue("coordinator"))
    assert greet(deployment, context, {"committee": "x", "port": 22310}) == b""


def test_only_the_coordinator_can_start_a_party(
    service: Running, authority: Authority, deployment: dict[str, Any]
) -> None:
    client_of(service, authority).close()
    context = ssl.create_default_context(cafile=str(authority.path))
    context.load_cert_chain(*authority.issue("party1"))
    assert greet(deployment, context, {"committee": "x", "start": {"role": "party"}}) == b""


def test_service_recovers_when_a_party_host_comes_back(
    service: Running, hosts: list[subprocess.Popen[str]], folder: Path, authority: Authority
) -> None:
    client_of(service, authority).close()
    before = service.state["num_recoveries"]
    hosts[1].send_signal(signal.SIGKILL)
    hosts[1].wait()
    service.wait(lambda state: state["num_recoveries"] > before)
    clients = (folder / "localhost.pem", folder / "localhost.key")
    time.sleep(0.1)
    hosts[1] = start_host(Shell(folder), authority, clients, 1)
    with client_of(service, authority) as client:
        assert len(client.predict_encoded(rows_of(client, 1)).labels) == 1
