"""The embedded engine: the same ServerApp and ClientApp, in one process, behind Flower's Grid."""

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


class InProcessGrid(Grid):
    """Calls the ClientApp directly. Messages pass through Flower's wire format, so nothing is shared."""

    def __init__(self, client_app: ClientApp, node_configs: Sequence[NodeConfig]) -> None:
        self._client_app = client_app
        self._run = flower_compat.new_run(FLOWER_RUN_ID)
        self._contexts = {
            number: Context(
                run_id=FLOWER_RUN_ID,
                node_id=number,
                node_config=dict(config),
                state=RecordDict(),
                run_config={},
            )
            for number, config in enumerate(node_configs, start=1)
        }
        self._replies: dict[str, Message] = {}

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
        """Returns all nodes: in one process they are always there."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Delivers `messages` one after the other and keeps the replies."""
        identities = []
        for message in messages:
            identity = flower_compat.address(message, self._run.run_id)
            self._replies[identity] = self._deliver(message)
            identities.append(identity)
        return identities

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Returns the replies to `message_ids` that have arrived."""
        return [self._replies.pop(identity) for identity in list(message_ids) if identity in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Delivers `messages` and returns their replies."""
        return self.pull_messages(self.push_messages(messages))

    def _deliver(self, message: Message) -> Message:
        arrived = flower_compat.copy_over_wire(message)
        try:
            reply = self._client_app(arrived, self._contexts[message.metadata.dst_node_id])
            return flower_compat.give_id(flower_compat.copy_over_wire(reply))
        except Exception as error:
            # Its text may hold a record; the coordinator learns only that the client failed.
            logger.warning("A ClientApp raised %s.", type(error).__name__)
            return flower_compat.give_id(flower_compat.failure_reply(arrived))


def run_in_process(
    server_app: ServerApp,
    client_app: ClientApp,
    *,
    node_configs: Sequence[NodeConfig],
    run_config: Mapping[str, str | int | float | bool],
) -> None:
    """Runs `server_app` to its end against one `client_app` per entry of `node_configs`."""
    grid = InProcessGrid(client_app, node_configs)
    context = Context(
        run_id=FLOWER_RUN_ID, node_id=0, node_config={}, state=RecordDict(), run_config=dict(run_config)
    )
    server_app(grid=grid, context=context)
