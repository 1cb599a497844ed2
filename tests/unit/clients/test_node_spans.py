"""A node and its spans: which records a run reads, what it pays for, and what weighs in training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from clients import handlers
from clients.node import Node
from fedpipe.data.balance import Balance
from fedpipe.errors import BudgetError, FederationError
from fedpipe.federation import Request
from fedpipe.federation.terms import RunTerms
from fedpipe.learning import kernel
from fedpipe.ledger import Ledger

MakeTerms = Callable[..., RunTerms]
Offer = Callable[..., Request]
Spans = tuple[str, ...]

SPANS: Spans = ("2026-01", "2026-02")
DATES = ("2026-01-15", "2026-02-01", "03/31/2026", "")
TRANSFORM = {
    "features": [{"type": "numeric", "column": "age", "lower": 0, "upper": 100, "center": 0, "scale": 100}],
    "missing_tokens": [""],
}


@pytest.fixture
def node(make_node: Callable[..., Node]) -> Node:
    """Forty records, ten of each month from January to March and ten without a date."""
    made = make_node()
    rows = [f"r{n},{20 + n},ulm,{'y' if n % 3 else 'n'},{DATES[n % 4]}" for n in range(40)]
    made.source.write_text("\n".join(["record_id,age,town,ill,Received", *rows]) + "\n")
    return made


@pytest.fixture
def terms(make_terms: MakeTerms) -> Callable[..., RunTerms]:
    """Terms with a month as window, over `spans`."""

    def make(spans: Spans = SPANS, **time: Any) -> RunTerms:
        schema = make_terms().data_schema.model_dump() | {"time": {"column": "received", **time}}
        return make_terms(data_schema=schema, spans=spans)

    return make


class FakeKernel:
    def __init__(self) -> None:
        self.tasks: list[kernel.LocalTask] = []

    def noisy_sums(self, task: kernel.LocalTask) -> Any:
        self.tasks.append(task)
        return task.noise.sum(axis=0)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    fake = FakeKernel()
    monkeypatch.setattr(kernel, "make_kernel", lambda name, definition: fake)
    return fake


def train_request(balance: Any = None, run_id: str = "run-1") -> Request:
    values = {"transform": TRANSFORM, "local_step_sizes": {}}
    return Request(
        run_id=run_id,
        step="train",
        server_round=1,
        values=values if balance is None else values | {"balance": balance},
        arrays={"weights": np.zeros(1, np.float32)},
    )


def test_a_run_reads_the_records_of_its_spans_only(node: Node, terms: Callable[..., RunTerms]) -> None:
    assert node.shard(terms()).spans.tolist() == list(SPANS) * 10
    assert set(node.shard(terms(("2026-03", "2025-12"))).spans) == {"2026-03"}
    assert len(node.shard(terms(("2020-01",))).labels) == 0


def test_every_declared_span_is_a_block_and_a_commitment(
    node: Node, terms: Callable[..., RunTerms], offer: Offer
) -> None:
    """Also one without a record: whether there are any is not for the coordinator to see."""
    spans = ("2020-01", *SPANS)
    request = offer(terms(spans))
    reply = handlers.ingest(node, request)
    handlers.claim(node, request)
    assert [span["name"] for span in reply.values["spans"]] == list(spans)
    assert len({span["commitment"] for span in reply.values["spans"]}) == 3
    assert [str(block) for block in node.blocks(terms(spans))] == [
        f"client-1/{span}/{split}" for span in spans for split in ("train", "eval")
    ]
    with Ledger(node.ledger) as ledger:
        assert len(ledger.spending()) == 6
        assert all(spending.held > 0 for spending in ledger.spending())


def test_spans_have_budgets_of_their_own(
    make_node: Callable[..., Node], node: Node, terms: Callable[..., RunTerms], offer: Offer
) -> None:
    poor = replace(node, policy=node.policy.model_copy(update={"lifetime_runs": 1}))
    handlers.claim(poor, offer(terms(("2026-01",)), "run-1"))
    handlers.claim(poor, offer(terms(("2026-02",)), "run-2"))
    with pytest.raises(BudgetError, match="client-1/2026-02/"):
        handlers.claim(poor, offer(terms(("2026-02", "2026-03")), "run-3"))
    handlers.claim(poor, offer(terms(("2026-03",)), "run-4"))


@pytest.mark.parametrize(
    "spans", [(), ("2026-01", "2026-01"), ("undated",), ("2026-Q1",), ("2026-01", "2026"), ("",)], ids=str
)
def test_spans_that_are_repeated_or_of_another_window_are_refused(
    node: Node, terms: Callable[..., RunTerms], offer: Offer, spans: Spans
) -> None:
    """A span named twice would count its records twice."""
    with pytest.raises(FederationError, match="Expected"):
        handlers.claim(node, offer(terms(spans)))
    with Ledger(node.ledger) as ledger:
        assert ledger.spending() == []


def test_spans_need_a_time_column(
    make_node: Callable[..., Node], make_terms: MakeTerms, offer: Offer
) -> None:
    with pytest.raises(FederationError, match=r"schema\.time"):
        handlers.claim(make_node(), offer(make_terms(spans=("2026-01",))))


def test_labels_are_counted_by_span(node: Node, terms: Callable[..., RunTerms], offer: Offer) -> None:
    spans = (*SPANS, "2020-01")
    plan = terms(spans).plan.model_dump(mode="json")
    plan["queries"]["labels"]["mechanism"]["noise_stddev"] = 0.1
    handlers.claim(node, offer(RunTerms.model_validate(terms(spans).model_dump() | {"plan": plan})))
    labels = handlers.release(node, Request(run_id="run-1", step="statistics")).arrays["labels"]
    assert labels.shape == (3, 2, 3)
    assert labels.sum(axis=(1, 2)).tolist() == [10, 10, 0]


BALANCE = {"answer": "reweight", "spans": list(SPANS), "weights": [[1.0, 0.5], [0.25, 1.0]]}


def expected_weights(node: Node, terms: RunTerms) -> list[float]:
    records = node.shard(terms).labelled_train
    table = {("2026-01", 0): 1.0, ("2026-01", 1): 0.5, ("2026-02", 0): 0.25, ("2026-02", 1): 1.0}
    return [table[pair] for pair in zip(records.spans.tolist(), records.labels.tolist(), strict=True)]


def test_reweighting_gives_each_record_the_weight_of_its_span_and_class(
    node: Node, terms: Callable[..., RunTerms], offer: Offer, trained: FakeKernel
) -> None:
    handlers.claim(node, offer(terms()))
    handlers.release(node, train_request(BALANCE))
    [task] = trained.tasks
    assert task.example_weights is not None
    assert task.example_weights.tolist() == expected_weights(node, terms())
    assert len(set(expected_weights(node, terms()))) == 3
    assert task.clipping_norm == 1.0


def test_resampling_draws_records_less_often_and_weighs_none(
    node: Node, terms: Callable[..., RunTerms], offer: Offer, trained: FakeKernel
) -> None:
    nothing = BALANCE | {"answer": "resample", "weights": [[0.0, 0.0], [1.0, 1.0]]}
    handlers.claim(node, offer(terms()))
    handlers.release(node, train_request(nothing))
    [task] = trained.tasks
    assert task.example_weights is None
    drawn = np.concatenate(task.batches)
    assert len(drawn)
    assert set(node.shard(terms()).labelled_train.spans[drawn]) == {"2026-02"}


def test_without_a_balance_all_records_weigh_the_same(
    node: Node, terms: Callable[..., RunTerms], offer: Offer, trained: FakeKernel
) -> None:
    handlers.claim(node, offer(terms()))
    handlers.release(node, train_request())
    assert trained.tasks[0].example_weights is None


@pytest.mark.parametrize(
    "change",
    [
        {"weights": [[1.0, 2.0], [1.0, 1.0]]},
        {"weights": [[1.0], [1.0]]},
        {"weights": [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]},
        {"spans": ["2026-02", "2026-01"]},
        {"spans": ["2026-01"], "weights": [[1.0, 0.5]]},
        {"answer": "amplify"},
    ],
    ids=str,
)
@pytest.mark.parametrize("answer", ["reweight", "resample"])
def test_weights_that_do_not_fit_the_run_are_refused_before_a_charge(
    node: Node,
    terms: Callable[..., RunTerms],
    offer: Offer,
    trained: FakeKernel,
    change: dict[str, Any],
    answer: str,
) -> None:
    handlers.claim(node, offer(terms()))
    with pytest.raises(FederationError, match="weights"):
        handlers.release(node, train_request(BALANCE | {"answer": answer} | change))
    assert trained.tasks == []
    with Ledger(node.ledger) as ledger:
        assert ledger.num_releases("run-1") == 0


def test_balances_on_the_wire_are_what_the_coordinator_made() -> None:
    balance = Balance.model_validate(BALANCE)
    assert Balance.model_validate(balance.model_dump(mode="json")) == balance
