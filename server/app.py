"""The ServerApp: the whole cycle, over whatever clients Flower's Grid reaches."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from fedpipe.config import parse_config
from fedpipe.federation.flower_clients import FlowerClients
from fedpipe.federation.witness import Witness
from fedpipe.ledger import Ledger, utc_now
from fedpipe.pipeline import Progress, SilentProgress, Workspace
from server.coordinator import RunRequest, run_cycle

from flwr.app import Context  # isort: skip
from flwr.serverapp import Grid, ServerApp  # isort: skip

app = ServerApp()

_progress: ContextVar[Progress | None] = ContextVar("progress", default=None)


@contextmanager
def shown_by(progress: Progress) -> Iterator[None]:
    """Lets `progress` show what the app does; Flower's context carries plain values only."""
    token = _progress.set(progress)
    try:
        yield
    finally:
        _progress.reset(token)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Runs the cycle that `run_config` names; whoever started it holds the workspace's lock.

    `members` gives the node number of each client, where a federation's keys tell who is who, and
    `ledger-keys` the public key of its ledger.
    """
    settings = context.run_config
    request = RunRequest(
        config=parse_config(json.loads(str(settings["config"])), source="the run's configuration"),
        workspace=Workspace(Path(str(settings["workspace"]))),
        run_id=str(settings["run-id"]),
        seed=int(settings["seed"]),
        reuse=bool(settings.get("reuse", True)),
        signing_key=Path(str(settings["signing-key"])) if "signing-key" in settings else None,
        ledger_keys=json.loads(str(settings.get("ledger-keys", "{}"))),
    )
    members = {int(node): name for name, node in json.loads(str(settings.get("members", "{}"))).items()}
    with Ledger(request.workspace.witness_path) as ledger:
        clients = FlowerClients(grid, witness=Witness(ledger), members=members or None)
        run_cycle(request, clients, progress=_progress.get() or SilentProgress(), clock=utc_now)
