"""The data owners behind a Flower Grid."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from fedpipe.errors import FederationError
from fedpipe.federation import flower_compat  # noqa: F401  first: it keeps the import of flwr light
from fedpipe.federation.flower_messages import message_to_reply, request_to_message
from fedpipe.federation.messages import Refusal, Reply, Request

from flwr.serverapp import Grid  # isort: skip

POLL_SECONDS = 0.05


class FlowerClients:
    """Implements `Clients`: every connected node is asked, and every wait is bounded."""

    def __init__(self, grid: Grid, *, poll_seconds: float = POLL_SECONDS) -> None:
        self._grid = grid
        self._poll_seconds = poll_seconds

    def ask(self, request: Request, *, timeout_seconds: float) -> tuple[list[Reply], list[Refusal]]:
        """Returns the answers in order of client name, and the refusals; see `Clients`.

        Raises:
          FederationError: no node is connected, or two answered under one name.
        """
        nodes = sorted(self._grid.get_node_ids())
        if not nodes:
            raise FederationError(
                "Expected at least one client, found none connected: start the nodes first."
            )
        messages = [request_to_message(request, node, timeout_seconds) for node in nodes]
        deadline = time.monotonic() + timeout_seconds
        # Flower gives None for a message that it could not deliver, or no list at all.
        identities: list[str | None] = list(self._grid.push_messages(messages)) or [None] * len(nodes)
        pending = {identity: node for identity, node in zip(identities, nodes, strict=True) if identity}
        undelivered = sorted(set(nodes) - set(pending.values()))
        answers = [
            *self._collect(pending, deadline),
            *(
                Refusal(client=f"node-{node}", reason="the request could not be delivered")
                for node in undelivered
            ),
        ]
        replies = sorted((a for a in answers if isinstance(a, Reply)), key=lambda reply: reply.client)
        refusals = sorted((a for a in answers if isinstance(a, Refusal)), key=lambda refusal: refusal.client)
        _check_distinct([reply.client for reply in replies])
        return replies, refusals

    def _collect(self, pending: dict[str, int], deadline: float) -> Iterator[Reply | Refusal]:
        while pending:
            for message in self._grid.pull_messages(list(pending)):
                # Whatever answers nothing that is still open came twice, or too late.
                node = pending.pop(message.metadata.reply_to_message_id, None)
                if node is not None:
                    yield message_to_reply(message, f"node-{node}")
            if not pending or time.monotonic() > deadline:
                break
            time.sleep(self._poll_seconds)
        yield from (Refusal(client=f"node-{node}", reason="no answer in time") for node in pending.values())


def _check_distinct(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise FederationError(
            f"Expected one answer per client, found two under the name {twice[0]}: "
            "give every node a name of its own."
        )
