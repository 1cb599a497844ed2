"""What becomes of a round's updates when some clients lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from fedpipe.errors import FederationError
from fedpipe.federation import Reply
from fedpipe.federation.aggregation import RULES, Update, aggregate, least_updates, read_updates
from fedpipe.learning import TrainingSettings

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict  # isort: skip
from flwr.serverapp.strategy import (  # isort: skip
    Bulyan,
    FedAvg,
    FedMedian,
    FedTrimmedAvg,
    Krum,
    MultiKrum,
)

NUM_BYZANTINE = 2
ROBUST = sorted(RULES)
TRUTH = np.array([1.0, -2.0, 0.5, 0.0])


def settings(**changes: Any) -> TrainingSettings:
    return TrainingSettings.model_validate({"sampling_probability": 0.5, **changes})


def robust(rule: str) -> TrainingSettings:
    return settings(aggregation=rule, num_byzantine=0 if rule == "median" else NUM_BYZANTINE)


def honest(number: int, seed: int = 3) -> list[Update]:
    """Returns updates whose mean gradients scatter closely around TRUTH, of clients of unlike sizes."""
    generator = np.random.default_rng(seed)
    sizes = generator.integers(50, 500, number)
    scatter = TRUTH + generator.normal(0, 0.01, (number, 4))
    return [
        Update(client=f"c{n:02}", total=0.5 * size * scatter[n], size=float(size))
        for n, size in enumerate(sizes)
    ]


def lying(total: np.ndarray[Any, Any], name: str = "liar") -> list[Update]:
    return [Update(client=f"{name}-{n}", total=total, size=200.0) for n in range(NUM_BYZANTINE)]


def test_the_mean_weighs_clients_by_size() -> None:
    updates = [
        Update(client="a", total=np.array([6.0], np.float32), size=4.0),
        Update(client="b", total=np.array([2.0], np.float32), size=12.0),
    ]
    assert aggregate(updates, settings(), least_total=0.0).gradient.tolist() == [8.0 / (0.5 * 16.0)]
    assert aggregate(updates, settings(), least_total=32.0).gradient.tolist() == [0.5]


@pytest.mark.parametrize("rule", ROBUST)
@pytest.mark.parametrize(
    "total", [-100 * TRUTH, 1e9 * np.ones(4), 1e30 * np.ones(4)], ids=["flipped", "scaled", "huge"]
)
def test_liars_do_not_move_a_robust_aggregate(rule: str, total: np.ndarray[Any, Any]) -> None:
    updates = [*honest(9), *lying(total)]
    found = aggregate(updates, robust(rule), least_total=0.0)
    np.testing.assert_allclose(found.gradient, TRUTH, atol=0.03)
    spoilt = aggregate(updates, settings(), least_total=0.0)
    assert np.linalg.norm(spoilt.gradient - TRUTH) > 0.3


@pytest.mark.parametrize("rule", ["multi_krum", "bulyan"])
def test_who_was_left_out_is_named(rule: str) -> None:
    found = aggregate([*honest(9), *lying(-100 * TRUTH)], robust(rule), least_total=0.0)
    assert {"liar-0", "liar-1"} <= found.set_aside.keys()
    assert "far from theirs" in found.set_aside["liar-0"]


@pytest.mark.parametrize("rule", ROBUST)
def test_too_few_updates_are_refused(rule: str) -> None:
    training = robust(rule)
    least = least_updates(training)
    aggregate(honest(least), training, least_total=0.0)
    if least > 1:
        with pytest.raises(FederationError, match=rf"{least} updates.*num_byzantine"):
            aggregate(honest(least - 1), training, least_total=0.0)


def test_a_longer_update_than_an_honest_one_is_shortened_and_named() -> None:
    updates = [*honest(3), Update(client="liar", total=1e12 * TRUTH.astype(np.float32), size=100.0)]
    found = aggregate(updates, settings(), least_total=0.0, longest=lambda size: 5 * size)
    assert list(found.set_aside) == ["liar"]
    assert "as long as an honest one" in found.set_aside["liar"]
    assert np.linalg.norm(found.gradient) < 10
    assert not aggregate(honest(3), settings(), least_total=0.0, longest=lambda size: 5 * size).set_aside


@pytest.mark.parametrize("bad", [np.array([np.nan, 0, 0, 0]), np.array([np.inf] * 4), np.zeros(3), "x"])
def test_an_answer_that_is_no_update_is_refused(bad: Any) -> None:
    reply = Reply(client="a", arrays={"sum": np.asarray(bad)})
    with pytest.raises(FederationError):
        read_updates([reply], {"a": 1.0}, (4,))


FLOWERS: Mapping[str, tuple[type[FedAvg], dict[str, Any]]] = {
    "median": (FedMedian, {}),
    "trimmed_mean": (FedTrimmedAvg, {"beta": NUM_BYZANTINE / 11}),
    "krum": (Krum, {"num_malicious_nodes": NUM_BYZANTINE}),
    "multi_krum": (MultiKrum, {"num_malicious_nodes": NUM_BYZANTINE, "num_nodes_to_select": 9}),
    "bulyan": (Bulyan, {"num_malicious_nodes": NUM_BYZANTINE}),
}


@pytest.mark.parametrize("rule", ROBUST)
def test_the_rules_are_flower_s(rule: str) -> None:
    """Equal on updates of clients of one size, liars among them."""
    rows = np.random.default_rng(8).normal(size=(11, 40))
    rows[3] *= 5
    make, options = FLOWERS[rule]
    replies = []
    for row in rows:
        records = RecordDict({"arrays": ArrayRecord([row]), "metrics": MetricRecord({"num-examples": 1})})
        replies.append(Message(records, dst_node_id=1, message_type="train"))
    found, _ = make(**options).aggregate_train(1, replies)
    assert found is not None
    ours, _ = RULES[rule](rows, NUM_BYZANTINE)
    np.testing.assert_allclose(ours, found.to_numpy_ndarrays()[0], rtol=1e-12, atol=1e-12)
