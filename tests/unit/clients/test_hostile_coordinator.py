"""A coordinator that plays every trick at random against a node, beside an account kept of what left it."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from clients import handlers
from clients.node import Node
from clients.policy import NodePolicy
from fedpipe.errors import FedpipeError
from fedpipe.federation import Request
from fedpipe.federation.messages import encode_reply
from fedpipe.federation.terms import RunTerms
from fedpipe.learning import kernel
from fedpipe.ledger import Ledger
from fedpipe.privacy.accounting import renyi_divergence

RUNS = ("run-1", "run-2", "run-3")
STEPS = ("statistics", "preprocess", "train", "analyze")
BUDGET = NodePolicy(lifetime_epsilon=9.0, lifetime_delta=1e-5, seed=5)
TRANSFORM = {
    "features": [
        {"type": "numeric", "column": "age", "lower": 0.0, "upper": 99.0, "center": 0.0, "scale": 1.0}
    ],
    "missing_tokens": [""],
}

runs = st.sampled_from(RUNS)
steps = st.sampled_from(("train", "train", *STEPS))  # the one that may be asked more than once


Identity = tuple[str, str, int, int]


class _FakeKernel:
    def noisy_sums(self, task: kernel.LocalTask) -> np.ndarray[Any, Any]:
        return np.asarray(task.noise.sum(axis=0), dtype=np.float32)


def _weaker(terms: RunTerms) -> RunTerms:
    """Returns terms with a quarter of the noise on the labels: another plan, of which it asks the same."""
    plan = terms.plan.model_dump(mode="json")
    plan["queries"]["labels"]["mechanism"]["noise_stddev"] /= 4
    return RunTerms.model_validate(terms.model_dump(mode="json") | {"plan": plan})


class HostileCoordinator(RuleBasedStateMachine):
    """Claims, asks, repeats, reorders, closes and lies, in any order.

    `paid` adds up, from nothing but what came out of the node and the plan it agreed to, what each block
    has lost. It shares no code with the ledger but the divergence of one event.
    """

    terms: RunTerms  # set by the test

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        folder = Path(self.directory.name)
        source, key = folder / "records.csv", folder / "node.key"
        lines = [f"r{n},{20 + n},ulm,{'y' if n % 3 else 'n'}" for n in range(12)]
        source.write_text("\n".join(["record_id,age,town,ill", *lines]) + "\n")
        key.write_bytes(b"k" * 32)
        self.node = Node.from_config(
            {
                "client": "c",
                "source": str(source),
                "key": str(key),
                "ledger": str(folder / "ledger.sqlite"),
                "policy": json.dumps(BUDGET.model_dump()),
            }
        )
        self.agreed: dict[str, RunTerms] = {}
        self.answers: dict[Identity, tuple[str, bytes]] = {}
        self.paid: dict[str, list[Any]] = defaultdict(list)

    def teardown(self) -> None:
        self.directory.cleanup()

    @initialize()
    def begin(self) -> None:
        self.claim(RUNS[0], set(STEPS), weaker=False)

    @rule(run=runs, some=st.sets(st.sampled_from(STEPS), min_size=1), weaker=st.booleans())
    def claim(self, run: str, some: set[str], weaker: bool) -> None:
        terms = _weaker(self.terms) if weaker else self.terms
        values = {"terms": terms.model_dump(mode="json"), "steps": sorted(some)}
        try:
            handlers.claim(self.node, Request(run_id=run, step="claim", values=values))
        except FedpipeError:
            return
        assert self.agreed.setdefault(run, terms) == terms

    @rule(run=runs, step=steps, server_round=st.integers(0, 5), attempt=st.integers(0, 1))
    def ask(self, run: str, step: str, server_round: int, attempt: int) -> None:
        if run in self.agreed:
            self._ask((run, step, server_round, attempt), weight=0)

    @precondition(lambda self: self.answers)
    @rule(choice=st.integers(0, 99), weight=st.integers(0, 1))
    def ask_again(self, choice: int, weight: int) -> None:
        self._ask(sorted(self.answers)[choice % len(self.answers)], weight)

    def _ask(self, identity: Identity, weight: int) -> None:
        run, step, server_round, attempt = identity
        request = Request(
            run_id=run,
            step=step,
            server_round=server_round,
            attempt=attempt,
            values={"transform": TRANSFORM, "local_step_sizes": {}},
            arrays={"weights": np.full(1, weight, np.float32)},
        )
        try:
            reply = encode_reply(handlers.release(self.node, request))
        except FedpipeError:
            return
        if identity in self.answers:
            assert self.answers[identity] == (request.digest, reply)
            return
        self.answers[identity] = (request.digest, reply)
        for query in self.agreed[run].plan.queries.values():
            if query.step == step:
                for split in query.splits:
                    self.paid[split].append(query.mechanism.event)

    @rule(run=st.sampled_from(RUNS[1:]))
    def finish(self, run: str) -> None:
        handlers.finish(self.node, Request(run_id=run, step="finish"))

    @rule()
    def restart(self) -> None:
        self.node = Node(**{name: getattr(self.node, name) for name in self.node.__dataclass_fields__})

    @invariant()
    def no_block_has_lost_more_than_its_budget(self) -> None:
        if not self.paid:
            return
        with Ledger(self.node.ledger) as ledger:
            spending = {each.block.split: each for each in ledger.spending()}
        for split, events in self.paid.items():
            each = spending[split]
            lost = sum(renyi_divergence(event, each.policy.renyi_order) for event in events)
            assert lost <= each.held * (1 + 1e-9) <= each.budget * (1 + 2e-9)


@contextmanager
def _without_tensorflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(kernel, "make_kernel", lambda name, definition: _FakeKernel())
        patch.setitem(handlers.RELEASES, "analyze", handlers.statistics)
        yield


def _play(terms: RunTerms) -> None:
    machine = type("Machine", (HostileCoordinator,), {"terms": terms})
    checks = (HealthCheck.too_slow, HealthCheck.filter_too_much)
    chosen = settings(
        max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=checks, database=None
    )
    run_state_machine_as_test(machine, settings=chosen)  # type: ignore[no-untyped-call]


def test_no_order_of_requests_makes_a_node_overspend(
    make_terms: Callable[..., RunTerms], monkeypatch: pytest.MonkeyPatch
) -> None:
    with _without_tensorflow(monkeypatch):
        _play(make_terms())
