from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from clients.home import NodeHome
from clients.metrics import NodeMetrics
from clients.site_policy import SitePolicy
from fedpipe.federation.enrolment import Invitation


@pytest.fixture
def home(tmp_path: Path, make_invitation: Callable[..., Invitation]) -> NodeHome:
    return NodeHome.create(
        tmp_path / "home", make_invitation(), store=None, policy=SitePolicy.model_validate({})
    )[0]


def shown(metrics: NodeMetrics) -> list[str]:
    return generate_latest(metrics.collectors).decode().splitlines()


def test_answers_and_refusals_are_counted_by_step_and_kind(home: NodeHome) -> None:
    metrics = NodeMetrics(home)
    for step, outcome in [("train", "answered"), ("train", "answered"), ("train", "BudgetError")]:
        metrics.on_answer(step, outcome)

    assert 'fedpipe_node_requests_total{outcome="answered",step="train"} 2.0' in shown(metrics)
    assert 'fedpipe_node_requests_total{outcome="BudgetError",step="train"} 1.0' in shown(metrics)


def test_a_server_cannot_make_labels_up(home: NodeHome) -> None:
    metrics = NodeMetrics(home)
    for number in range(100):
        metrics.on_answer(f"step-{number}", "LedgerError")

    assert 'fedpipe_node_requests_total{outcome="LedgerError",step="other"} 100.0' in shown(metrics)
    assert "step-7" not in "\n".join(shown(metrics))


def test_the_connection_decides_whether_the_node_is_ready(home: NodeHome) -> None:
    metrics = NodeMetrics(home)
    assert (metrics.is_ready, "fedpipe_node_last_contact_timestamp_seconds 0.0" in shown(metrics)) == (
        False,
        True,
    )
    metrics.on_state("connected")
    assert metrics.is_ready
    assert "fedpipe_node_last_contact_timestamp_seconds 0.0" not in shown(metrics)
    metrics.on_state("the server cannot be reached")
    assert not metrics.is_ready


def test_a_damaged_ledger_is_shown_as_such(home: NodeHome) -> None:
    assert "fedpipe_node_ledger_readable 1.0" in shown(NodeMetrics(home))
    home.ledger_path.write_bytes(b"no ledger")
    assert "fedpipe_node_ledger_readable 0.0" in shown(NodeMetrics(home))
