"""Flower's own commands against the fleet port: by strangers, by a member, and over the operator's socket."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fedpipe.federation import pki
from tests.unit.federation.superlink import Federation, call, free_port, ping, wait_until

import grpc  # isort: skip

pytestmark = pytest.mark.slow

# As they come, they import TensorFlow and Ray, which takes half a minute.
RUN = """
import importlib, sys
sys.modules |= dict.fromkeys(("tensorflow", "ray"))
module, _, function = sys.argv.pop(1).partition(":")
sys.argv[0] = function
getattr(importlib.import_module(module), function)()
"""
FLWR = "flwr.cli.app:app"
SUPERNODE = "flwr.supernode.cli.flower_supernode:flower_supernode"
SUPEREXEC = "flwr.supercore.cli:flower_superexec"

PROJECT = """
[project]
name = "app"
version = "1.0.0"
[tool.flwr.app]
publisher = "somebody"
[tool.flwr.app.components]
serverapp = "strange:server"
clientapp = "strange:client"
[tool.flwr.federations.fleet]
address = "127.0.0.1:{port}"
root-certificates = "{folder}/ca.pem"
[tool.flwr.federations.plain]
address = "127.0.0.1:{port}"
insecure = true
[tool.flwr.federations.control]
address = "{control}"
insecure = true
"""
APP = """
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
client = ClientApp()
server = ServerApp()
"""


class Stranger:
    """Somebody with Flower and with the federation's public certificate."""

    def __init__(self, federation: Federation, folder: Path) -> None:
        self.federation, self.folder = federation, folder
        (folder / "ca.pem").write_bytes(federation.ca)
        (folder / "pyproject.toml").write_text(
            PROJECT.format(port=federation.port, folder=folder, control=federation.control)
        )
        (folder / "strange.py").write_text(APP)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Starts a command."""
        return subprocess.Popen(
            [sys.executable, "-c", RUN, *words],
            cwd=self.folder,
            env=os.environ
            | {"FLWR_HOME": str(self.folder), "HOME": str(self.folder), "FLWR_TELEMETRY_ENABLED": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words: str) -> str:
        """Returns what a command prints until it ends."""
        return self.start(*words).communicate(timeout=120)[0]

    def supernode(self, *words: str) -> list[str]:
        """Returns the words of a stock node that calls the fleet port."""
        local = f"--clientappio-api-address=127.0.0.1:{free_port()}"
        there = f"--superlink=127.0.0.1:{self.federation.port}"
        return [SUPERNODE, "--isolation=process", local, there, "--max-retries=1", *words]

    def key(self, key: pki.PrivateKey, name: str) -> str:
        """Returns the option that names a key, in the format that Flower reads."""
        path = self.folder / name
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        return f"--auth-supernode-private-key={path}"


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path)
    try:
        made.register("first", "second")
        yield made
    finally:
        made.superlink.stop()


@pytest.fixture
def stranger(federation: Federation, tmp_path: Path) -> Stranger:
    folder = tmp_path / "stranger"
    folder.mkdir()
    return Stranger(federation, folder)


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name == "fedpipe.superlink"]


def test_the_fleet_port_starts_and_lists_no_runs(
    stranger: Stranger, federation: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    commands = [stranger.start(FLWR, *words, "fleet") for words in (("ls", "."), ("run", "."))]
    told = [command.communicate(timeout=120)[0] for command in commands]
    plain = stranger.run(FLWR, "ls", ".", "plain")

    assert all("cannot process this request" in " ".join(each.split()) for each in told), told
    assert "unavailable" in plain
    assert sorted(refusals(caplog)) == [
        "Refused: ListRuns: no such method.",
        "Refused: StartRun: no such method.",
    ]
    listed = stranger.run(FLWR, "ls", ".", "control")
    assert "Run ID" in listed
    assert "app" not in listed.partition("Run ID")[2]


def test_stock_nodes_without_a_members_key_are_refused_and_members_work(
    stranger: Stranger, federation: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    trusted = f"--root-certificates={stranger.folder}/ca.pem"
    own = stranger.key(pki.make_key(), "own")
    with federation.node(federation.link(federation.keys["first"])) as states:
        wait_until(lambda: "connected" in states)
        for words in ([trusted], [trusted, own], ["--insecure"]):
            # So Flower says that it did not get in.
            assert "generator didn't yield" in stranger.run(*stranger.supernode(*words))
        replies, _ = federation.ask(ping())

    assert len(replies) == 1
    unknown = "this key is not found among the members, or did not sign."
    assert refusals(caplog) == [f"Refused: RegisterNode: {unknown}", f"Refused: ActivateNode: {unknown}"]


def test_nobody_gets_launch_tokens_or_starts_runs_at_the_fleet_port(
    stranger: Stranger, federation: Federation
) -> None:
    there = f"--appio-api-address=127.0.0.1:{federation.port}"
    with stranger.start(SUPEREXEC, "--insecure", there, "--plugin-type=serverapp") as superexec:
        assert superexec.stdout is not None
        assert any("Connection attempt failed" in line for line in superexec.stdout)
        superexec.kill()
    methods = ["ServerAppIo/RequestToken", "ServerAppIo/ListAppsToLaunch", "ClientAppIo/RequestToken"]
    methods += ["Control/StartRun", "Control/RegisterNode", "Control/ListRuns"]
    for name in methods:
        for key in (None, federation.keys["first"]):
            assert call(federation, f"/flwr.proto.{name}", b"", key) == grpc.StatusCode.UNIMPLEMENTED


def test_nodes_of_flower_1_13_to_1_22_are_refused(federation: Federation) -> None:
    """Those registered themselves, and took and gave tasks under other names and headers."""
    for method in ("CreateNode", "DeleteNode", "Ping", "PullTaskIns", "PushTaskRes"):
        assert call(federation, method, b"", federation.keys["first"]) == grpc.StatusCode.UNIMPLEMENTED
    for method in ("PullMessages", "PushMessages", "GetRun", "GetFab"):
        assert call(federation, method, b"", None) == grpc.StatusCode.UNAUTHENTICATED


def test_a_members_stock_node_gives_no_answer_and_her_own_is_asked_again(
    stranger: Stranger, federation: Federation
) -> None:
    words = [f"--root-certificates={stranger.folder}/ca.pem", stranger.key(federation.keys["first"], "first")]
    stock = stranger.start(*stranger.supernode(*words))
    wait_until(lambda: federation.superlink.num_online() == 1)
    replies, absent = federation.ask(ping(), timeout=8)
    stock.terminate()
    told = stock.communicate(timeout=60)[0]

    assert not replies
    assert [each.client for each in absent] == ["first"]
    with federation.node(federation.link(federation.keys["first"])) as states:
        wait_until(lambda: "connected" in states)
        replies, _ = federation.ask(ping(number=5), timeout=20)
    assert [reply.values["number"] for reply in replies] == [5], told
