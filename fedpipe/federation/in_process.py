"""The embedded engine: the same ServerApp and ClientApp, in one process, behind Flower's Grid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fedpipe.federation import flower_compat
from fedpipe.federation.local_grid import LocalGrid, NodeConfig, answer_message, run_server_app

from flwr.app import Message  # isort: skip
from flwr.clientapp import ClientApp  # isort: skip
from flwr.serverapp import ServerApp  # isort: skip


class InProcessGrid(LocalGrid):
    """Calls the ClientApp directly, one message after the other."""

    def __init__(self, client_app: ClientApp, node_configs: Sequence[NodeConfig]) -> None:
        super().__init__(node_configs)
        self._client_app = client_app
        self._replies: dict[str, Message] = {}

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
        return answer_message(self._client_app, message, self._contexts[message.metadata.dst_node_id])


def run_in_process(
    server_app: ServerApp,
    client_app: ClientApp,
    *,
    node_configs: Sequence[NodeConfig],
    run_config: NodeConfig,
) -> None:
    """Runs `server_app` to its end against one `client_app` per entry of `node_configs`."""
    run_server_app(server_app, InProcessGrid(client_app, node_configs), run_config)
