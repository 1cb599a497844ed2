"""The data owners behind a Flower Grid."""

from __future__ import annotations

import time

from fedpipe.errors import FederationError
from fedpipe.federation import flower_compat  # noqa: F401  first: it keeps the import of flwr light
from fedpipe.federation.flower_messages import message_to_reply, request_to_message
from fedpipe.federation.messages import Refusal, Reply, Request

from flwr.serverapp import Grid  # isort: skip

POLL_SECONDS = 0.05


class FlowerClients:
    """Implements `Clients`: every connected node is asked, and every wait is bounded."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def ask(self, request: Request, *, timeout_seconds: float) -> tuple[list[Reply], list[Refusal]]:
        """Returns the answers in order of client name, and the refusals; see `Clients`."""
        nodes = sorted(self._grid.get_node_ids())
        if not nodes:
            raise FederationError("Expected at least one client, found none connected.")
        messages = [request_to_message(request, node, timeout_seconds) for node in nodes]
        pending = dict(zip(self._grid.push_messages(messages), nodes, strict=True))
        answers = self._collect(pending, time.monotonic() + timeout_seconds)
        replies = sorted((a for a in answers if isinstance(a, Reply)), key=lambda reply: reply.client)
        refusals = sorted((a for a in answers if isinstance(a, Refusal)), key=lambda refusal: refusal.client)
        if len({reply.client for reply in replies}) < len(replies):
            raise FederationError("Expected one answer per client, found two under one name.")
        return replies, refusals

    def _collect(self, pending: dict[str, int], deadline: float) -> list[Reply | Refusal]:
        answers: list[Reply | Refusal] = []
        while pending:
            for message in self._grid.pull_messages(list(pending)):
                node = pending.pop(message.metadata.reply_to_message_id)
                answers.append(message_to_reply(message, f"node {node}"))
            if pending and time.monotonic() > deadline:
                break
            if pending:
                time.sleep(POLL_SECONDS)
        answers.extend(Refusal(client=f"node {node}", reason="no answer in time") for node in pending.values())
        return answers
