"""The data owners behind a Flower Grid."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from fedpipe.errors import FederationError
from fedpipe.federation import flower_compat  # noqa: F401  first: it keeps the import of flwr light
from fedpipe.federation.flower_messages import message_to_reply, request_to_message
from fedpipe.federation.messages import ABSENT, Refusal, Reply, Request
from fedpipe.federation.witness import Witness

from flwr.serverapp import Grid  # isort: skip

POLL_SECONDS = 0.02
LATENESS, LONGEST_POLL_SECONDS = 0.03, 1.0


class FlowerClients:
    """Implements `Clients`: connected nodes are asked, and every wait is bounded.

    Flower knows nodes by number only; their clients' names are learned from what they answer. A
    node that has not answered yet may be anybody, and is asked whoever is meant.

    Where keys tell who is who, `members` names every node that may take part: no other is asked, and
    none can answer under the name of another.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        expected: int | None = None,
        witness: Witness | None = None,
        poll_seconds: float = POLL_SECONDS,
        members: Mapping[int, str] | None = None,
    ) -> None:
        """Asks the nodes of `grid`, once `expected` of them have connected.

        An engine may start its server before its nodes, and a first request that reaches some would
        silently leave out the others. They are waited for until they have been seen together
        once, or the first wait is over. With a `witness`, the heads of ledgers travel beside all messages.
        """
        self._witness = witness
        self._grid = grid
        self._poll_seconds = poll_seconds
        self._awaited = 1 if expected is None else max(expected, 1)
        self._members = members
        self._names: dict[int, str] = dict(members or {})
        self._asked: set[int] = set()

    def ask(
        self, request: Request, *, timeout_seconds: float, only: Collection[str] | None = None
    ) -> tuple[list[Reply], list[Refusal]]:
        """Returns the answers in order of client name, and the refusals; see `Clients`.

        Raises:
          FederationError: two answered under one name.
        """
        deadline = time.monotonic() + timeout_seconds
        nodes = [node for node in self._connected(deadline) if self._may_be_meant(node, only)]
        if not nodes:
            return [], []
        timeout_left = max(deadline - time.monotonic(), self._poll_seconds)
        messages = [request_to_message(self._witnessed(request, node), node, timeout_left) for node in nodes]
        # Flower gives None for a message that it could not deliver, or no list at all.
        identities: list[str | None] = list(self._grid.push_messages(messages)) or [None] * len(nodes)
        pending = {identity: node for identity, node in zip(identities, nodes, strict=True) if identity}
        self._asked.update(pending.values())
        undelivered = sorted(set(nodes) - set(pending.values()))
        answers = [
            *self._collect(pending, deadline),
            *(self._absent(node, "the request could not be delivered") for node in undelivered),
        ]
        replies = sorted((a for a in answers if isinstance(a, Reply)), key=lambda reply: reply.client)
        _check_distinct([reply.client for reply in replies])
        refusals = [answer for answer in answers if isinstance(answer, Refusal)]
        if self._witness is not None:
            replies, refused = self._witness.keep(replies)
            refusals += refused
        return replies, sorted(refusals, key=lambda refusal: refusal.client)

    def _witnessed(self, request: Request, node: int) -> Request:
        if self._witness is None:
            return request
        return replace(request, heads=self._witness.heads_for(self._names.get(node)))

    def _connected(self, deadline: float) -> list[int]:
        """Returns the nodes that are there, after waiting for those that are awaited."""
        nodes, begun = self._online(), time.monotonic()
        while len(nodes) < self._awaited and time.monotonic() < deadline:
            self._pause(time.monotonic() - begun)
            nodes = self._online()
        # Whoever is still away is asked as soon as it connects; nobody waits for it again.
        self._awaited = 1
        return nodes

    def _pause(self, waited_seconds: float) -> None:
        """Sleeps until the next look, the longer the wait so far: each is a transaction at the SuperLink."""
        time.sleep(max(self._poll_seconds, min(LATENESS * waited_seconds, LONGEST_POLL_SECONDS)))

    def _online(self) -> list[int]:
        nodes = sorted(self._grid.get_node_ids())
        return nodes if self._members is None else [node for node in nodes if node in self._members]

    def _may_be_meant(self, node: int, only: Collection[str] | None) -> bool:
        if only is None or (self._members is None and node not in self._names):
            return True
        # Members have names before they say a word: with nobody named, those that joined meanwhile are meant.
        return self._names[node] in only or (not only and node not in self._asked)

    def _name(self, node: int) -> str:
        return self._names.get(node, f"node-{node}")

    def _collect(self, pending: dict[str, int], deadline: float) -> Iterator[Reply | Refusal]:
        begun = time.monotonic()
        while pending:
            for message in self._grid.pull_messages(list(pending)):
                # Whatever answers nothing that is still open came twice, or too late.
                node = pending.pop(message.metadata.reply_to_message_id, None)
                if node is not None:
                    yield self._identified(message_to_reply(message, self._name(node)), node)
            now = time.monotonic()
            if not pending or now > deadline:
                break
            self._pause(now - begun)
        yield from (self._absent(node, "no answer in time") for node in pending.values())

    def _identified(self, answer: Reply | Refusal, node: int) -> Reply | Refusal:
        """Returns `answer` of `node`, unless it speaks for somebody else."""
        name = self._name(node)
        if self._members is not None and answer.client != name:
            return Refusal(client=name, reason="it answered under another name", kind="FederationError")
        if answer.client != f"node-{node}":
            self._names[node] = answer.client
        return answer

    def _absent(self, node: int, reason: str) -> Refusal:
        return Refusal(client=self._name(node), reason=reason, kind=ABSENT)


def _check_distinct(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise FederationError(
            f"Expected one answer per client, found two under the name {twice[0]}: "
            "give every node a name of its own."
        )
