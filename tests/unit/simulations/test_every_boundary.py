"""A small run, killed once at each of its durable changes: before it, after it, and then gone on with."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from clients import handlers
from clients.node import Node
from fedpipe.config import Config
from fedpipe.federation import Reply, Request
from fedpipe.federation.messages import encode_reply
from fedpipe.ledger import Ledger
from fedpipe.pipeline import MetadataStore, SilentProgress, Workspace
from fedpipe.reports.summary import RunSummary
from simulations.request import SimulationRequest
from simulations.run import simulate

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_tensorflow")]

NOW = datetime(2024, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
DURABLE = {
    Ledger: ("reserve", "commit", "close"),
    MetadataStore: ("create_run", "update_run", "start_execution", "finish_execution", "record_cached"),
    os: ("replace", "link"),
}
PARTS = 4  # of the boundaries, so that they can be tried side by side

# What left a client: (run, client, step, round) to the different bytes that were sent.
Sent = dict[tuple[str, str, str, int], set[bytes]]


class Dead(BaseException):
    """Stands for SIGKILL."""


@contextmanager
def dying_at(boundary: int) -> Iterator[None]:
    """Kills at one boundary, counted from 1; there are two at every durable change."""
    passed = 0

    def step() -> None:
        nonlocal passed
        passed += 1
        if passed >= boundary:  # the dead write nothing
            raise Dead

    def watch(function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            step()
            result = function(*args, **kwargs)
            step()
            return result

        return watched

    with pytest.MonkeyPatch.context() as patch:
        for owner, names in DURABLE.items():
            for name in names:
                patch.setattr(owner, name, watch(getattr(owner, name)))
        yield


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """Remembers every charged reply that left a client."""
    found: Sent = defaultdict(set)
    release = handlers.release

    def watched(node: Node, request: Request) -> Reply:
        reply = release(node, request)
        found[request.run_id, node.name, request.step, request.server_round].add(encode_reply(reply))
        return reply

    monkeypatch.setattr(handlers, "release", watched)
    return found


@pytest.fixture
def wanted(make_config: Callable[..., Config], write_records: Callable[..., Path]) -> SimulationRequest:
    training = {"num_rounds": 3, "local_steps": 2}  # as in the plan that needs no calibration
    config = make_config(federation={"num_clients": 2}, training=training)
    return SimulationRequest.make(config, [write_records()], 0)


def run(workspace: Workspace, wanted: SimulationRequest) -> RunSummary:
    return simulate(workspace, wanted, progress=SilentProgress(), now=NOW)


def held(workspace: Workspace) -> dict[str, float]:
    with Ledger(workspace.ledger_path) as ledger:
        return {str(spending.block): round(spending.held, 9) for spending in ledger.spending()}


def num_committed(workspace: Workspace) -> int:
    with Ledger(workspace.ledger_path) as ledger:
        return sum(ledger.num_releases(path.name) for path in workspace.runs_dir.iterdir())


def weights(workspace: Workspace, summary: RunSummary) -> bytes:
    return (workspace.runs_dir / summary.run_id / "train" / "weights.npy").read_bytes()


@pytest.mark.parametrize("part", range(PARTS))
def test_death_at_any_boundary_costs_nothing_more_and_changes_nothing(
    tmp_path: Path, wanted: SimulationRequest, sent: Sent, part: int
) -> None:
    undisturbed = Workspace(tmp_path / "undisturbed")
    expected = run(undisturbed, wanted)
    total = len(sent)
    for boundary in range(1 + part, 1000, PARTS):
        sent.clear()
        workspace = Workspace(tmp_path / f"dead-at-{boundary}")
        try:
            with dying_at(boundary):
                run(workspace, wanted)
        except Dead:
            _check_after_death(workspace, undisturbed, sent)
        else:
            assert boundary > 100  # all of them were tried
            return
        summary = run(workspace, wanted)
        assert held(workspace) == held(undisturbed)
        assert weights(workspace, summary) == weights(undisturbed, expected)
        assert (summary.model_version, summary.metrics) == (expected.model_version, expected.metrics)
        assert len(sent) == num_committed(workspace) == total
        assert all(len(replies) == 1 for replies in sent.values())  # the same question, the same bytes
    pytest.fail("the run never came to its end")


def _check_after_death(workspace: Workspace, undisturbed: Workspace, sent: Sent) -> None:
    """Whatever left a client was counted; and from the first claim on, all that may leave it is."""
    if not workspace.ledger_path.exists():
        assert not sent
        return
    assert len(sent) <= num_committed(workspace)
    whole = held(undisturbed)
    now = held(workspace)
    assert all(value in (0.0, whole[block]) for block, value in now.items()), (now, whole)
    if sent:
        assert {block.partition("/")[0] for block in held(workspace)} == {b.partition("/")[0] for b in whole}
