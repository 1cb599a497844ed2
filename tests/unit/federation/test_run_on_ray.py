"""How a run on Ray ends: with the caller's own error, and with nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedpipe.errors import BudgetError
from fedpipe.federation import Reply, Request
from fedpipe.federation.flower_clients import FlowerClients
from fedpipe.federation.flower_messages import reply_to_message
from fedpipe.federation.ray_actors import ENVIRONMENT
from fedpipe.federation.ray_engine import run_on_ray

from flwr.app import Context, Message  # isort: skip
from flwr.clientapp import ClientApp  # isort: skip
from flwr.serverapp import Grid, ServerApp  # isort: skip

NODES: list[dict[str, str | int | float | bool]] = [{"client": "a"}]


def client_app() -> ClientApp:
    app = ClientApp()

    @app.query("statistics")
    def validate(message: Message, context: Context) -> Message:
        return reply_to_message(Reply(client=str(context.node_config["client"])), message)

    return app


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files with a short name, as Ray's sockets need."""
    with tempfile.TemporaryDirectory(prefix="t") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def descendants(ancestor: int) -> set[int]:
    """Returns the processes that `ancestor` started, and that those started."""
    lines = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(pid): int(parent) for pid, parent in map(str.split, lines.splitlines())}
    found = {ancestor}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {ancestor}


def outliving(processes: set[int]) -> set[int]:
    """Returns those of `processes` that do not end; on a busy machine Ray's agents take their time."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        lines = subprocess.run(["ps", "-eo", "pid=,stat="], capture_output=True, text=True, check=True).stdout
        states = {int(pid): state for pid, state in map(str.split, lines.splitlines())}
        if not (left := {pid for pid in processes if not states.get(pid, "Z").startswith("Z")}):
            return set()
        time.sleep(0.2)
    return left


def settings() -> list[object]:
    """Returns what the start of Ray touches for a while."""
    return [signal.getsignal(signal.SIGTERM), *map(os.environ.get, (*ENVIRONMENT, "PYTHONPATH"))]


@pytest.mark.parametrize("error", [BudgetError("too much"), KeyboardInterrupt()])
def test_what_a_server_app_raises_arrives_and_nothing_stays_behind(
    error: BaseException, temporary: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    started: set[int] = set()
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        assert context.run_config["run-id"] == "r"
        replies, _ = FlowerClients(grid).ask(Request(run_id="r", step="statistics"), timeout_seconds=120)
        assert [reply.client for reply in replies] == ["a"]
        [private] = temporary.iterdir()
        assert private.stat().st_mode & 0o077 == 0
        started.update(descendants(os.getpid()) - others)
        raise error

    before, others = settings(), descendants(os.getpid())  # a server of other tests, perhaps
    with pytest.raises(type(error)) as raised:
        run_on_ray(server, client_app(), node_configs=NODES, run_config={"run-id": "r"})
    assert raised.value is error
    assert len(started) > 2
    assert not outliving(started)
    assert not list(temporary.iterdir())
    assert settings() == before
    assert "".join(capfd.readouterr()) == ""
