"""An answer that was computed and then lost comes again: the same bytes, at no charge."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from clients.app import app
from clients.node import Node
from fedpipe.federation import Request
from fedpipe.federation.cohort import Clock, ask_cohort
from fedpipe.federation.flower_clients import FlowerClients
from fedpipe.federation.in_process import InProcessGrid
from fedpipe.federation.messages import encode_reply
from fedpipe.federation.terms import RunTerms
from fedpipe.learning import TrainingSettings
from fedpipe.ledger import Ledger

from flwr.app import Message  # isort: skip


class LosingGrid(InProcessGrid):
    """Loses the first `losses` answers of a step, after their clients have made them."""

    def __init__(self, *args: Any, losses: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.losses = losses
        self.lost: list[Message] = []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        identities = list(super().push_messages(messages))
        for message, identity in zip(messages, identities, strict=True):
            if message.metadata.message_type.endswith("statistics") and self.losses > len(self.lost):
                self.lost.append(self._replies.pop(identity))
        return identities


@pytest.fixture
def grid(
    make_node: Callable[..., Node], make_terms: Callable[..., RunTerms], offer: Callable[..., Request]
) -> LosingGrid:
    nodes = [make_node(name) for name in ("client-1", "client-2", "client-3")]
    configs = [
        {
            "client": node.name,
            "source": str(node.source),
            "key": str(node.key_path),
            "ledger": str(node.ledger),
            "policy": node.policy.model_dump_json(),
        }
        for node in nodes
    ]
    grid = LosingGrid(app, configs, losses=2)
    replies, refusals = FlowerClients(grid).ask(offer(make_terms()), timeout_seconds=5)
    assert (len(replies), refusals) == (3, [])
    return grid


def test_a_lost_answer_comes_again_at_no_charge(grid: LosingGrid, make_node: Callable[..., Node]) -> None:
    settings = TrainingSettings.model_validate({"round_timeout_seconds": 3, "min_cohort": 3})
    cohort = ask_cohort(
        FlowerClients(grid, poll_seconds=0.001),
        Request(run_id="run-1", step="statistics"),
        settings,
        among=["client-1", "client-2", "client-3"],
        clock=Clock(sleep=lambda seconds: None),
    )
    assert [reply.client for reply in cohort.replies] == ["client-1", "client-2", "client-3"]
    # Nobody's name was known yet, so all may have been meant; but two had been lost.
    assert set(cohort.retried) == {"client-1", "client-2"}
    with Ledger(make_node("client-1").ledger) as ledger:
        assert ledger.num_releases("run-1") == 3


def test_it_is_the_very_answer_that_was_lost(grid: LosingGrid) -> None:
    from fedpipe.federation.flower_messages import message_to_reply

    clients, request = FlowerClients(grid, poll_seconds=0.001), Request(run_id="run-1", step="statistics")
    clients.ask(request, timeout_seconds=0.05)
    again, _ = clients.ask(request, timeout_seconds=5)
    lost = [encode_reply(message_to_reply(message, "x")) for message in grid.lost]  # type: ignore[arg-type]
    assert lost == [encode_reply(reply) for reply in again[:2]]
