"""Bounded waits on a Grid that answers late, twice, wrongly or never."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from fedpipe.errors import FederationError
from fedpipe.federation import Refusal, Reply, Request
from fedpipe.federation.flower_clients import FlowerClients
from fedpipe.federation.flower_messages import reply_to_message
from fedpipe.federation.messages import ABSENT

from flwr.app import Error, Message  # isort: skip
from flwr.serverapp import Grid  # isort: skip

REQUEST = Request(run_id="run-1", step="statistics", arrays={"weights": np.zeros(1)})
Answer = Callable[[Message, int], list[Message]]


def named(name: str) -> Answer:
    return lambda message, poll: [reply_to_message(Reply(client=name), message)] if poll == 1 else []


class FakeGrid(Grid):
    """Asks `answers[node](request, poll)` for what arrives from a node at each poll, the first being 1."""

    def __init__(self, answers: dict[int, Answer], undelivered: Iterable[int] = ()) -> None:
        self._answers = answers
        self._undelivered = set(undelivered)
        self._sent: dict[str, Message] = {}
        self.polls = 0

    def set_run(self, run_id: int) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def send_and_receive(self, *args: Any, **kwargs: Any) -> Iterable[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self._answers)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        identities: list[Any] = []
        for message in messages:
            delivered = message.metadata.dst_node_id not in self._undelivered
            identities.append(uuid.uuid4().hex if delivered else None)
            message.metadata.__dict__["_message_id"] = identities[-1]
            if delivered:
                self._sent[identities[-1]] = message
        return identities

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self.polls += 1
        arrived = []
        for message in self._sent.values():
            arrived += self._answers[message.metadata.dst_node_id](message, self.polls)
        return arrived


def ask(grid: Grid, timeout_seconds: float = 0.2) -> tuple[list[Reply], list[Refusal]]:
    return FlowerClients(grid, poll_seconds=0.001).ask(REQUEST, timeout_seconds=timeout_seconds)


def test_answers_come_in_order_of_client_names() -> None:
    replies, refusals = ask(FakeGrid({1: named("c"), 2: named("a"), 3: named("b")}))
    assert [reply.client for reply in replies] == ["a", "b", "c"]
    assert refusals == []


def test_a_grid_without_nodes_gives_no_answers_after_the_wait() -> None:
    assert ask(FakeGrid({}), timeout_seconds=0.01) == ([], [])


def test_a_client_that_never_answers_is_a_refusal_after_the_wait() -> None:
    replies, refusals = ask(FakeGrid({1: named("a"), 2: lambda message, poll: []}))
    assert [reply.client for reply in replies] == ["a"]
    assert refusals == [Refusal(client="node-2", reason="no answer in time", kind=ABSENT)]


def test_a_late_answer_within_the_wait_counts() -> None:
    def late(message: Message, poll: int) -> list[Message]:
        return [reply_to_message(Reply(client="late"), message)] if poll == 4 else []

    grid = FakeGrid({1: late, 2: named("a")})
    replies, _ = ask(grid, timeout_seconds=30)
    assert [reply.client for reply in replies] == ["a", "late"]
    assert grid.polls == 4


def test_even_without_any_time_the_answers_that_are_there_are_taken() -> None:
    replies, refusals = ask(FakeGrid({1: named("a"), 2: lambda message, poll: []}), timeout_seconds=0.0001)
    assert [reply.client for reply in replies] == ["a"]
    assert len(refusals) == 1


def test_one_request_answered_twice_counts_once() -> None:
    def twice(message: Message, poll: int) -> list[Message]:
        return [reply_to_message(Reply(client="a", values={"copy": copy}), message) for copy in (1, 2)]

    replies, _ = ask(FakeGrid({1: twice}))
    assert [reply.values["copy"] for reply in replies] == [1]


def test_an_answer_to_something_else_is_ignored() -> None:
    def stray(message: Message, poll: int) -> list[Message]:
        other = reply_to_message(Reply(client="stray"), message)
        other.metadata.__dict__["_reply_to_message_id"] = "an earlier round"
        return [other, reply_to_message(Reply(client="a"), message)]

    replies, refusals = ask(FakeGrid({1: stray}))
    assert [reply.client for reply in replies] == ["a"]
    assert refusals == []


def test_two_nodes_under_one_name_are_an_error_that_names_it() -> None:
    with pytest.raises(FederationError, match="under the name same"):
        ask(FakeGrid({1: named("same"), 2: named("same"), 3: named("a")}))


def test_what_could_not_be_delivered_is_a_refusal() -> None:
    replies, refusals = ask(FakeGrid({1: named("a"), 2: named("b")}, undelivered=[2]))
    assert [reply.client for reply in replies] == ["a"]
    assert refusals == [Refusal(client="node-2", reason="the request could not be delivered", kind=ABSENT)]


def test_a_grid_that_takes_no_message_at_all_is_a_refusal_of_all() -> None:
    grid = FakeGrid({1: named("a"), 2: named("b")})
    grid.push_messages = lambda messages: []  # type: ignore[method-assign]  # as Flower does when it is full
    replies, refusals = ask(grid)
    assert replies == []
    assert {refusal.client for refusal in refusals} == {"node-1", "node-2"}


def test_errors_and_refusals_do_not_stop_the_others() -> None:
    def broken(message: Message, poll: int) -> list[Message]:
        return [Message(Error(5, "details"), reply_to=message)]

    def refusing(message: Message, poll: int) -> list[Message]:
        return [reply_to_message(Refusal(client="b", reason="no", kind="BudgetError"), message)]

    replies, refusals = ask(FakeGrid({1: broken, 2: refusing, 3: named("a")}))
    assert [reply.client for reply in replies] == ["a"]
    assert [(refusal.client, refusal.kind) for refusal in refusals] == [
        ("b", "BudgetError"),
        ("node-1", ABSENT),
    ]


def test_every_message_carries_the_wait_as_its_time_to_live() -> None:
    seen: list[float] = []

    def remember(message: Message, poll: int) -> list[Message]:
        seen.append(message.metadata.ttl)
        return [reply_to_message(Reply(client="a"), message)]

    ask(FakeGrid({1: remember}), timeout_seconds=12.5)
    assert 0 < seen[0] <= 12.5


class GrowingGrid(FakeGrid):
    """A grid whose nodes connect one by one, each time it is looked at."""

    def __init__(self, answers: dict[int, Answer], connected: int) -> None:
        super().__init__(answers)
        self._connected = connected

    def get_node_ids(self) -> Iterable[int]:
        self._connected += 1
        return list(self._answers)[: self._connected - 1]


def always(name: str) -> Answer:
    return lambda message, poll: [reply_to_message(Reply(client=name), message)]


def names(answers: tuple[list[Reply], list[Refusal]]) -> list[str]:
    return [reply.client for reply in answers[0]]


def test_the_first_node_is_waited_for() -> None:
    assert names(ask(GrowingGrid({1: named("a")}, connected=0), timeout_seconds=30)) == ["a"]


def test_expected_nodes_are_waited_for_before_the_first_request() -> None:
    grid = GrowingGrid({1: named("a"), 2: named("b"), 3: named("c")}, connected=0)
    clients = FlowerClients(grid, expected=3, poll_seconds=0.001)
    assert names(clients.ask(REQUEST, timeout_seconds=30)) == ["a", "b", "c"]


def test_expected_nodes_that_never_come_are_waited_for_once() -> None:
    looks: list[int] = []

    class Counting(FakeGrid):
        def get_node_ids(self) -> Iterable[int]:
            looks.append(1)
            return super().get_node_ids()

    clients = FlowerClients(Counting({1: always("a")}), expected=2, poll_seconds=0.001)
    assert names(clients.ask(REQUEST, timeout_seconds=0.05)) == ["a"]
    assert len(looks) > 1
    looks.clear()
    assert names(clients.ask(REQUEST, timeout_seconds=30)) == ["a"]
    assert len(looks) == 1


def test_once_their_names_are_known_some_can_be_asked_without_the_others() -> None:
    grid = FakeGrid({1: always("a"), 2: always("b"), 3: always("c")})
    clients = FlowerClients(grid, poll_seconds=0.001)
    clients.ask(REQUEST, timeout_seconds=1)
    sent = len(grid._sent)
    assert names(clients.ask(REQUEST, timeout_seconds=1, only=["b"])) == ["b"]
    assert len(grid._sent) == sent + 1
    assert names(clients.ask(REQUEST, timeout_seconds=1, only=[])) == []
    assert len(grid._sent) == sent + 1


def test_a_node_that_never_answered_may_be_anybody_and_is_asked() -> None:
    """As a client is that was restarted, and has a new number."""
    grid = FakeGrid({1: always("a"), 2: lambda message, poll: []})
    clients = FlowerClients(grid, poll_seconds=0.001)
    clients.ask(REQUEST, timeout_seconds=0.01)
    grid._answers[2] = always("b")
    assert names(clients.ask(REQUEST, timeout_seconds=1, only=["b"])) == ["b"]


def test_a_client_that_refuses_has_a_name_too() -> None:
    def refusing(message: Message, poll: int) -> list[Message]:
        return [reply_to_message(Refusal(client="b", reason="no"), message)]

    grid = FakeGrid({1: always("a"), 2: refusing})
    clients = FlowerClients(grid, poll_seconds=0.001)
    clients.ask(REQUEST, timeout_seconds=1)
    assert names(clients.ask(REQUEST, timeout_seconds=1, only=["a"])) == ["a"]
    grid._answers[2] = lambda message, poll: []
    _, refusals = clients.ask(REQUEST, timeout_seconds=0.01, only=["b"])
    assert refusals == [Refusal(client="b", reason="no answer in time", kind=ABSENT)]


def test_a_member_that_joined_late_is_asked_when_nobody_is_named() -> None:
    def at_once(name: str) -> Answer:
        return lambda message, _poll: [reply_to_message(Reply(client=name), message)]

    def asked(only: list[str] | None) -> list[str]:
        return [reply.client for reply in clients.ask(REQUEST, timeout_seconds=1, only=only)[0]]

    nodes = {1: at_once("a")}
    clients = FlowerClients(FakeGrid(nodes), members={1: "a", 2: "b"}, poll_seconds=0.001)
    assert asked(None) == ["a"]
    nodes[2] = at_once("b")
    assert asked(["a"]) == ["a"]
    assert asked([]) == ["b"]
    assert asked([]) == []
