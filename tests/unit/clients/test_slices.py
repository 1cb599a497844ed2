"""Slices of the evaluation: charged, noisy, and no more of them than planned."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from clients import handlers
from clients.node import Node
from fedpipe.errors import PrivacyError
from fedpipe.federation import Reply, Request
from fedpipe.federation.terms import RunTerms
from fedpipe.learning.score_histograms import ScoreBins
from fedpipe.ledger import Ledger

Prepare = Callable[[dict[str, Any] | None], Node]

FEATURES = [
    {"type": "numeric", "column": "age", "lower": 0.0, "upper": 1.0, "center": 0.0, "scale": 1.0},
    {"type": "vocabulary", "column": "town", "words": ["ulm", "trier"]},
]


def slices_query(num_histograms: int) -> dict[str, Any]:
    mechanism = {"kind": "noisy_histograms", "noise_stddev": 30.0, "num_histograms": num_histograms}
    return {"step": "analyze", "splits": ["eval"], "mechanism": mechanism}


@pytest.fixture
def prepare(
    make_node: Callable[..., Node],
    make_terms: Callable[..., RunTerms],
    offer: Callable[..., Request],
    monkeypatch: pytest.MonkeyPatch,
) -> Prepare:
    """Returns a node that has accepted a plan with that query for slices, or with none."""
    fake = SimpleNamespace(predict=lambda definition, weights, features: np.full(len(features), 0.7))
    monkeypatch.setitem(sys.modules, "fedpipe.learning.architectures", fake)

    def make(query: dict[str, Any] | None) -> Node:
        plan = make_terms().plan.model_dump(mode="json")
        if query:
            plan["queries"]["slices"] = query
        node = make_node()
        handlers.claim(node, offer(make_terms(plan=plan)))
        return node

    return make


def ask(node: Node, columns: list[str]) -> Reply:
    bins = ScoreBins.around(0.5, 8).model_dump(mode="json")
    values = {
        "transform": {"features": FEATURES, "missing_tokens": [""]},
        "bins": bins,
        "slices": columns,
        "slice_bins": bins,
    }
    weights = {"weights": np.zeros(1, np.float32)}
    return handlers.release(node, Request(run_id="run-1", step="analyze", values=values, arrays=weights))


def num_releases(node: Node) -> int:
    with Ledger(node.ledger) as ledger:
        return ledger.num_releases("run-1")


def test_slices_carry_the_noise_of_their_own_query(prepare: Prepare) -> None:
    reply = ask(prepare(slices_query(1)), ["town"])
    town = reply.arrays["slice_0"]
    assert town.shape == (3, 2, 8)
    assert town.dtype == np.int64
    # 48 cells with noise of standard deviation 30, beside 12 records at most.
    assert 18 < town.std() < 45


@pytest.mark.parametrize("query", [None, slices_query(1)], ids=["none planned", "one planned"])
def test_more_slices_than_planned_are_refused_and_nothing_is_released(
    prepare: Prepare, query: dict[str, Any] | None
) -> None:
    node = prepare(query)
    with pytest.raises(PrivacyError, match="Expected"):
        ask(node, ["town", "town"])
    assert num_releases(node) == 0


def test_slices_without_a_plan_for_them_are_refused(prepare: Prepare) -> None:
    with pytest.raises(PrivacyError, match="charges slices"):
        ask(prepare(None), ["town"])


def test_a_plan_may_charge_for_slices_that_nobody_asks_for(prepare: Prepare) -> None:
    assert list(ask(prepare(slices_query(2)), []).arrays) == ["scores"]
