"""What the engines on one machine share: known nodes behind Flower's Grid, and how one is asked."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedpipe.federation import flower_compat

from flwr.app import Context, Message, RecordDict  # isort: skip
from flwr.clientapp import ClientApp  # isort: skip
from flwr.serverapp import Grid, ServerApp  # isort: skip

FLOWER_RUN_ID = 1

logger = logging.getLogger(__name__)
NodeConfig = Mapping[str, str | int | float | bool]


class LocalGrid(Grid):
    """A Grid whose nodes are there from the beginning, numbered from 1. How they are reached is left open."""

    def __init__(self, node_configs: Sequence[NodeConfig]) -> None:
        self._run = flower_compat.new_run(FLOWER_RUN_ID)
        self._contexts = {
            number: new_context(number, node_config=config)
            for number, config in enumerate(node_configs, start=1)
        }

    def set_run(self, run_id: int) -> None:
        """Sets the run id of outgoing messages."""
        self._run.run_id = run_id

    @property
    def run(self) -> Any:
        """Flower's record of the run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Returns a new message, as Flower's Grid asks."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Returns all nodes."""
        return list(self._contexts)


def answer_message(client_app: ClientApp, message: Message, context: Context) -> Message:
    """Returns the answer of `client_app`, or an error reply that says no more than that it failed.

    Both pass through Flower's wire format, so nothing is shared and nothing works that a network would stop.
    """
    arrived = flower_compat.copy_over_wire(message)
    try:
        reply = flower_compat.copy_over_wire(client_app(arrived, context))
    except Exception as error:
        # Its text may hold a record; the coordinator learns only that the client failed.
        logger.warning("A ClientApp raised %s.", type(error).__name__)
        reply = flower_compat.failure_reply(arrived)
    return flower_compat.give_id(reply)


def run_server_app(server_app: ServerApp, grid: Grid, run_config: NodeConfig) -> None:
    """Runs `server_app` to its end, in the calling thread: what it raises is what the caller sees."""
    server_app(grid=grid, context=new_context(0, run_config=run_config))


def new_context(node_id: int, *, node_config: NodeConfig = {}, run_config: NodeConfig = {}) -> Context:  # noqa: B006
    """Returns what Flower hands to an app beside a message."""
    return Context(
        run_id=FLOWER_RUN_ID,
        node_id=node_id,
        node_config=dict(node_config),
        state=RecordDict(),
        run_config=dict(run_config),
    )
