"""The data owners behind a Flower Grid."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from fedpipe.errors import FederationError
from fedpipe.federation import flower_compat  # noqa: F401  first: it keeps the import of flwr light
from fedpipe.federation.flower_messages import message_to_reply, request_to_message
from fedpipe.federation.messages import ABSENT, Refusal, Reply, Request
from fedpipe.federation.witness import Witness

from flwr.serverapp import Grid  # isort: skip

POLL_SECONDS = 0.05


class FlowerClients:
    """Implements `Clients`: connected nodes are asked, and every wait is bounded.

    Flower knows nodes by number only; their clients' names are learned from what they answer. A
    node that has not answered yet may be anybody, and is asked whoever is meant.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        expected: int | None = None,
        witness: Witness | None = None,
        poll_seconds: float = POLL_SECONDS,
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
        self._names: dict[int, str] = {}

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
        nodes = sorted(self._grid.get_node_ids())
        while len(nodes) < self._awaited and time.monotonic() < deadline:
            time.sleep(self._poll_seconds)
            nodes = sorted(self._grid.get_node_ids())
        # Whoever is still away is asked as soon as it connects; nobody waits for it again.
        self._awaited = 1
        return nodes

    def _may_be_meant(self, node: int, only: Collection[str] | None) -> bool:
        return only is None or node not in self._names or self._names[node] in only

    def _name(self, node: int) -> str:
        return self._names.get(node, f"node-{node}")

    def _collect(self, pending: dict[str, int], deadline: float) -> Iterator[Reply | Refusal]:
        while pending:
            for message in self._grid.pull_messages(list(pending)):
                # Whatever answers nothing that is still open came twice, or too late.
                node = pending.pop(message.metadata.reply_to_message_id, None)
                if node is not None:
                    answer = message_to_reply(message, self._name(node))
                    if answer.client != f"node-{node}":
                        self._names[node] = answer.client
                    yield answer
            if not pending or time.monotonic() > deadline:
                break
            time.sleep(self._poll_seconds)
        yield from (self._absent(node, "no answer in time") for node in pending.values())

    def _absent(self, node: int, reason: str) -> Refusal:
        return Refusal(client=self._name(node), reason=reason, kind=ABSENT)


def _check_distinct(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise FederationError(
            f"Expected one answer per client, found two under the name {twice[0]}: "
            "give every node a name of its own."
        )
