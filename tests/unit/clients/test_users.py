"""A node whose unit is the user: what it draws, bounds, counts, pays for and refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from clients import handlers
from clients.node import Node
from clients.records import encode
from clients.training import local_task
from fedpipe.data import Transform
from fedpipe.errors import FedpipeError, LedgerError
from fedpipe.federation import Request
from fedpipe.federation.terms import RunTerms
from fedpipe.learning.local_task import LocalTask
from fedpipe.ledger import Ledger
from fedpipe.privacy import DpSgd, PrivacyPlan

MakeTerms = Callable[..., RunTerms]
Offer = Callable[..., Request]
Users = dict[str, int]

SPANS = ("2026-01", "2026-02")
TRANSFORM = {
    "features": [{"type": "numeric", "column": "age", "lower": 0, "upper": 100, "center": 0, "scale": 100}],
    "missing_tokens": [""],
}
COUNTS = ("labels", "columns", "features", "evaluation")


@pytest.fixture
def terms(make_terms: MakeTerms) -> Callable[..., RunTerms]:
    """Terms for users of at most `max_records` records, over two months."""

    def make(max_records: int = 3, **plan_changes: Any) -> RunTerms:
        record = make_terms()
        plan = record.plan.model_dump(mode="json")
        plan |= {"unit": "user", "user": {"column": "patient", "max_records": max_records}}
        for name in COUNTS:
            plan["queries"][name]["mechanism"]["max_records"] = max_records
        mechanism = {"kind": "noisy_histograms", "noise_stddev": 0.1, "num_histograms": 1}
        labels = plan["queries"]["labels"]
        plan["queries"]["users"] = labels | {"mechanism": mechanism}
        labels["mechanism"]["noise_stddev"] = 0.1
        schema = record.data_schema.model_dump() | {"user": "patient", "time": {"column": "received"}}
        return make_terms(plan=plan | plan_changes, data_schema=schema, spans=SPANS)

    return make


@pytest.fixture
def node_of(make_node: Callable[..., Node]) -> Callable[[Users], Node]:
    """Returns a node with so many records of each user, spread over two months."""

    def make(users: Users) -> Node:
        node = make_node(lifetime_runs=5)
        rows = [
            f"{user}-{n},{20 + n},ulm,{'y' if n % 3 else 'n'},2026-0{1 + n % 2}-15,{user}"
            for user, count in users.items()
            for n in range(count)
        ]
        node.source.write_text("\n".join(["record_id,age,town,ill,received,patient", *rows]) + "\n")
        return node

    return make


USERS: Users = {"ann": 50, **{f"u{n}": 1 + n % 4 for n in range(40)}}


def task_of(
    node: Node, terms: RunTerms, *, probability: float = 0.5, steps: int = 2, **values: Any
) -> LocalTask:
    training = terms.plan.queries["training"].mechanism
    assert isinstance(training, DpSgd)
    mechanism = training.model_copy(update={"sampling_probability": probability, "local_steps": steps})
    request = Request(
        run_id="run-1",
        step="train",
        server_round=1,
        values={"transform": TRANSFORM, "local_step_sizes": {}, **values},
        arrays={"weights": np.zeros(2, np.float32)},
    )
    records = encode(node.shard(terms).labelled_train, Transform.model_validate(TRANSFORM), node.scratch)
    return local_task(node, request, terms, records, mechanism)


def drawn_users(node: Node, terms: RunTerms, batch: Any) -> list[list[str]]:
    """Returns the users of each unit of a batch, one for each record that weighs."""
    names = node.shard(terms).labelled_train.frame["patient"].to_numpy()
    units = batch.reshape(-1, terms.plan.max_records)
    return [names[unit[unit >= 0]].tolist() for unit in units]


def test_users_are_drawn_whole_and_each_once(
    node_of: Callable[[Users], Node], terms: Callable[..., RunTerms]
) -> None:
    node, agreed = node_of(USERS), terms()
    task = task_of(node, agreed)
    train = Counter(node.shard(agreed).labelled_train.frame["patient"])
    assert task.max_records == 3
    for batch in task.batches:
        units = drawn_users(node, agreed, batch)
        assert all(len(set(unit)) == 1 for unit in units)
        names = [unit[0] for unit in units]
        assert len(set(names)) == len(names) < len(train)
        assert all(len(unit) == train[unit[0]] <= 3 for unit in units)


def test_a_user_with_many_records_is_drawn_no_more_often(
    node_of: Callable[[Users], Node], terms: Callable[..., RunTerms]
) -> None:
    """A planted bug: to draw records would nearly always draw a user of fifty."""
    node, agreed = node_of({f"u{n}": 50 for n in range(8)}), terms(max_records=50)
    num_users = len(set(node.shard(agreed).labelled_train.frame["patient"]))
    task = task_of(node, agreed, probability=0.3, steps=500)
    drawn = sum(len(batch) for batch in task.batches) / 50
    share = drawn / (500 * num_users)
    assert abs(share - 0.3) < 5 * (0.3 * 0.7 / (500 * num_users)) ** 0.5
    by_record = 1 - 0.7**50
    assert by_record > 0.99


def test_the_bound_holds_over_all_spans_of_a_run(
    node_of: Callable[[Users], Node], terms: Callable[..., RunTerms]
) -> None:
    shard = node_of({"ann": 50, "bob": 2}).shard(terms())
    assert Counter(shard.frame["patient"]) == {"ann": 3, "bob": 2}


def test_a_user_in_several_spans_has_every_block_charged_with_the_whole_run(
    node_of: Callable[[Users], Node], terms: Callable[..., RunTerms], offer: Offer
) -> None:
    node = node_of({"ann": 50})
    handlers.claim(node, offer(terms()))
    with Ledger(node.ledger) as ledger:
        held = {(each.block.span, each.block.split): each.held for each in ledger.spending()}
    assert held["2026-01", "train"] == held["2026-02", "train"] > 0
    assert held["2026-01", "eval"] == held["2026-02", "eval"] > 0


def test_counts_move_by_the_bound_and_users_by_one(
    node_of: Callable[[Users], Node], terms: Callable[..., RunTerms], offer: Offer
) -> None:
    """Noise of 0.1 is nearly always 0."""
    replies = []
    for run_id, users in (("run-1", USERS), ("run-2", {**USERS, "ann": 0})):
        node = node_of(users)
        handlers.claim(node, offer(terms(), run_id))
        replies.append(handlers.release(node, Request(run_id=run_id, step="statistics")).arrays)
    moved = {name: np.abs(replies[0][name] - replies[1][name]).sum() for name in ("labels", "users")}
    assert moved == {"labels": 3, "users": 1}


def test_another_user_changes_no_field_of_what_is_agreed_and_charged(
    node_of: Callable[[Users], Node], terms: Callable[..., RunTerms], offer: Offer
) -> None:
    held = []
    for run_id, users in (("run-1", USERS), ("run-2", {**USERS, "eve": 90})):
        node = node_of(users)
        handlers.claim(node, offer(terms(), run_id))
        with Ledger(node.ledger) as ledger:
            held.append({str(each.block): each.held / (len(held) + 1) for each in ledger.spending()})
    assert held[0] == pytest.approx(held[1])


def test_resampling_thins_a_drawn_user_and_never_draws_her_more_often(
    node_of: Callable[[Users], Node], terms: Callable[..., RunTerms]
) -> None:
    node, agreed = node_of(USERS), terms()
    balance = {"answer": "resample", "spans": list(SPANS), "weights": [[0.0, 0.0], [1.0, 0.5]]}
    task = task_of(node, agreed, probability=1.0, steps=1, balance=balance)
    [batch] = task.batches
    records = node.shard(agreed).labelled_train
    present = batch[batch >= 0]
    assert task.example_weights is None
    assert len(batch) == 3 * len(set(records.frame["patient"]))
    assert set(records.spans[present]) == {"2026-02"}
    sure = np.flatnonzero((records.spans == "2026-02") & (records.labels == 0))
    assert set(sure) <= set(present)


def test_one_record_for_each_user_is_the_record_level_task(
    node_of: Callable[[Users], Node], terms: Callable[..., RunTerms], make_terms: MakeTerms
) -> None:
    """With k = 1 and users of one record, the same records are drawn by the same coins."""
    node, agreed = node_of({f"u{n}": 1 for n in range(40)}), terms(max_records=1)
    schema = agreed.data_schema
    record = make_terms(data_schema=schema, spans=SPANS)
    by_user, by_record = task_of(node, agreed), task_of(node, record)
    assert sum(map(len, by_user.batches)) > 0
    for first, second in zip(by_user.batches, by_record.batches, strict=True):
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(by_user.noise, by_record.noise)


def test_blocks_of_users_take_no_plan_for_records(
    node_of: Callable[[Users], Node], terms: Callable[..., RunTerms], make_terms: MakeTerms, offer: Offer
) -> None:
    node, agreed = node_of(USERS), terms()
    handlers.claim(node, offer(agreed, "run-1"))
    record = make_terms(data_schema=agreed.data_schema, spans=SPANS)
    with pytest.raises(LedgerError, match="Expected events of unit user"):
        handlers.claim(node, offer(record, "run-2"))


def test_an_owner_can_insist_on_users(
    node_of: Callable[[Users], Node], terms: Callable[..., RunTerms], make_terms: MakeTerms, offer: Offer
) -> None:
    node, agreed = node_of(USERS), terms()
    strict = replace(node, policy=node.policy.model_copy(update={"unit": "user"}))
    record = make_terms(data_schema=agreed.data_schema, spans=SPANS)
    with pytest.raises(LedgerError, match="unit is the user, found record: refused by policy"):
        handlers.claim(strict, offer(record, "run-1"))
    handlers.claim(strict, offer(agreed, "run-2"))


def test_a_plan_for_users_of_another_column_is_refused(
    node_of: Callable[[Users], Node], terms: Callable[..., RunTerms], offer: Offer
) -> None:
    agreed = terms(user={"column": "town", "max_records": 3})
    with pytest.raises(LedgerError, match="'patient', found 'town'"):
        handlers.claim(node_of(USERS), offer(agreed))


@pytest.mark.parametrize(
    "change",
    [
        {"user": None},
        {"unit": "record"},
        {"user": {"column": "patient", "max_records": 4}},
        {"user": {"column": "patient", "max_records": 0}},
        {"keyed": False},
    ],
    ids=str,
)
def test_plans_whose_noise_is_not_for_their_users_are_refused(
    terms: Callable[..., RunTerms], change: dict[str, Any]
) -> None:
    plan = terms().plan.model_dump(mode="json")
    with pytest.raises((FedpipeError, ValueError)):
        PrivacyPlan.model_validate(plan | change)


def test_a_plan_for_users_counts_them(terms: Callable[..., RunTerms]) -> None:
    plan = terms().plan.model_dump(mode="json")
    del plan["queries"]["users"]
    with pytest.raises((FedpipeError, ValueError), match="users"):
        PrivacyPlan.model_validate(plan)


def test_nodes_without_the_column_refuse_their_records_alone(
    make_node: Callable[..., Node], terms: Callable[..., RunTerms], offer: Offer
) -> None:
    with pytest.raises(FedpipeError, match="patient"):
        handlers.claim(replace(make_node(), name="client-1"), offer(terms()))
