"""The ClientApp: what an answer says when something is wrong."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients import handlers
from clients.app import app
from clients.node import Node
from fedpipe.errors import BudgetError, ConfigError, DataError, PipelineError
from fedpipe.federation import Refusal, Reply, Request
from fedpipe.federation.flower_clients import FlowerClients
from fedpipe.federation.in_process import InProcessGrid
from fedpipe.federation.terms import RunTerms

SECRET = "Jane Roe"


def ask(node: Node, request: Request, **config: str) -> Reply | Refusal:
    entries: dict[str, str | int | float | bool] = {
        "client": node.name,
        "source": str(node.source),
        "key": str(node.key_path),
        "ledger": str(node.ledger),
        "policy": node.policy.model_dump_json(),
    }
    grid = InProcessGrid(app, [entries | config])
    replies, refusals = FlowerClients(grid).ask(request, timeout_seconds=5)
    return [*replies, *refusals][0]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
    """Makes the node's answer to `validate` raise."""

    def install(error: Exception) -> None:
        def fail(*args: Any) -> Reply:
            raise error

        monkeypatch.setattr(handlers, "release", fail)

    return install


def test_a_run_is_accepted_and_answered(
    make_node: Callable[..., Node],
    make_terms: Callable[..., RunTerms],
    offer: Callable[..., Request],
) -> None:
    node = make_node()
    assert isinstance(ask(node, offer(make_terms())), Reply)
    answer = ask(node, Request(run_id="run-1", step="statistics"))
    assert isinstance(answer, Reply)
    assert sorted(answer.arrays) == ["columns", "labels"]
    assert isinstance(ask(node, Request(run_id="run-1", step="finish")), Reply)


@pytest.mark.parametrize(
    "content",
    [
        f"record_id,age,town\n{SECRET},1,ulm\n",
        f"record_id,age,town,ill\n{SECRET},1,ulm,y,extra\n",
        f'record_id,age,town,ill\n"{SECRET},1,ulm,y\n',
        f"{SECRET}\n",
        "",
    ],
    ids=["no-label", "ragged", "quote", "no-header", "empty"],
)
def test_what_is_wrong_with_records_stays_with_their_owner(
    make_node: Callable[..., Node],
    make_terms: Callable[..., RunTerms],
    offer: Callable[..., Request],
    content: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = make_node()
    node.source.write_text(content)
    answer = ask(node, offer(make_terms()))
    assert answer == Refusal(client="client-1", reason="its records cannot be read; its own log says why")
    assert node.source.name in caplog.text
    assert {record.name.partition(".")[0] for record in caplog.records} == {"clients"}


def test_a_file_that_is_gone_is_not_described(
    make_node: Callable[..., Node],
    make_terms: Callable[..., RunTerms],
    offer: Callable[..., Request],
) -> None:
    node = make_node()
    node.source.unlink()
    answer = ask(node, offer(make_terms()))
    assert isinstance(answer, Refusal)
    assert str(node.source.parent) not in answer.reason
    assert "own log" in answer.reason


@pytest.mark.parametrize(
    "error",
    [
        DataError(f"Expected a number in line 7, found {SECRET}."),
        ValueError(f"could not convert string to float: {SECRET}"),
        ConfigError(SECRET),
        PipelineError(SECRET),
        OSError(2, "No such file", SECRET),
        MemoryError(SECRET),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_text_of_an_error_about_records_does_not_leave(
    make_node: Callable[..., Node], failing: Callable[[Exception], None], error: Exception
) -> None:
    failing(error)
    answer = ask(make_node(), Request(run_id="run-1", step="statistics"))
    assert isinstance(answer, Refusal)
    assert SECRET not in answer.reason
    assert type(error).__name__ not in answer.reason
    assert answer.kind == ""


def test_a_refused_budget_says_what_is_missing(
    make_node: Callable[..., Node],
    make_terms: Callable[..., RunTerms],
    offer: Callable[..., Request],
    failing: Callable[[Exception], None],
) -> None:
    failing(BudgetError("Requested: 2, remaining: 1, difference: 1."))
    answer = ask(make_node(), Request(run_id="run-1", step="statistics"))
    assert answer == Refusal(
        client="client-1", reason="Requested: 2, remaining: 1, difference: 1.", kind="BudgetError"
    )


def test_a_refused_policy_says_so(
    make_node: Callable[..., Node], make_terms: Callable[..., RunTerms], offer: Callable[..., Request]
) -> None:
    answer = ask(make_node(seed=None), offer(make_terms()))
    assert isinstance(answer, Refusal)
    assert (answer.kind, "refused by policy" in answer.reason) == ("LedgerError", True)


def test_a_damaged_ledger_is_a_refusal_without_its_path(
    make_node: Callable[..., Node], make_terms: Callable[..., RunTerms], offer: Callable[..., Request]
) -> None:
    node = make_node()
    node.ledger.path.write_bytes(b"no ledger at all")
    answer = ask(node, offer(make_terms()))
    assert isinstance(answer, Refusal)
    assert answer.kind == "LedgerError"
    assert str(node.ledger.path.parent) not in answer.reason


def test_a_node_that_is_set_up_wrongly_refuses(make_node: Callable[..., Node]) -> None:
    answer = ask(make_node(), Request(run_id="run-1", step="statistics"), policy="{}}")
    assert answer == Refusal(
        client="client-1",
        reason="Expected the node's policy as JSON, found something else.",
        kind="FederationError",
    )


def test_a_refusal_is_logged_nowhere_but_at_the_owner(
    make_node: Callable[..., Node],
    failing: Callable[[Exception], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    failing(ValueError(SECRET))
    ask(make_node(), Request(run_id="run-1", step="statistics"))
    others = [record for record in caplog.records if not record.name.startswith("clients")]
    assert not any(SECRET in record.getMessage() + str(record.exc_info) for record in others)


def test_weights_of_another_shape_leave_nothing_and_cost_nothing(
    make_node: Callable[..., Node],
    make_terms: Callable[..., RunTerms],
    offer: Callable[..., Request],
    tmp_path: Path,
) -> None:
    node = make_node()
    ask(node, offer(make_terms()))
    request = Request(
        run_id="run-1",
        step="train",
        server_round=1,
        values={"transform": json.loads('{"features": "none"}')},
        arrays={"weights": np.zeros(3, np.float32)},
    )
    answer = ask(node, request)
    assert answer == Refusal(client="client-1", reason="the client failed; its own log says why")
    with node.open_ledger() as ledger:
        assert ledger.num_releases("run-1") == 0
