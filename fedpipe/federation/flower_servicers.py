"""Flower's servicers, for nodes that wait, die and come back, and for messages of bounded size."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from fedpipe.federation import flower_compat

with flower_compat.hidden("tensorflow", "ray"):
    import grpc
    from flwr.common.inflatable import iterate_object_tree
    from flwr.common.typing import InvalidRunStatusException
    from flwr.proto.message_pb2 import ConfirmMessageReceivedResponse
    from flwr.server.superlink.fleet.grpc_rere.fleet_servicer import FleetServicer
    from flwr.server.superlink.fleet.message_handler import message_handler
    from flwr.server.superlink.serverappio.serverappio_servicer import ServerAppIoServicer
    from flwr.supercore.object_store import ObjectStoreFactory

MAX_OBJECTS = 4096  # of one answer
WAIT_SECONDS = 15.0


class News:
    """Wakes the calls of nodes for which there is a message: nobody looks into the database in vain."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._nodes: set[int] = set()
        self._closed = False

    def tell(self, nodes: Iterable[int]) -> None:
        """Says that there may be messages for `nodes`."""
        with self._changed:
            self._nodes.update(nodes)
            self._changed.notify_all()

    def forget(self, node: int) -> None:
        """Says that `node` looks for its messages now."""
        with self._changed:
            self._nodes.discard(node)

    def wait(self, node: int, seconds: float) -> bool:
        """Returns whether there may be messages for `node`, as soon as that is known."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or node in self._nodes, seconds)
            return node in self._nodes

    def close(self) -> None:
        """Lets nobody wait any longer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Fleet(FleetServicer):
    """Flower's Fleet API, for nodes that wait, die and come back, and for answers of bounded size."""

    def __init__(self, *parts: Any, news: News, max_message_bytes: int) -> None:
        states, bundles, objects = parts
        # With authentication, nobody registers a node over this port.
        super().__init__(states, bundles, objects, enable_supernode_auth=True)
        self._news = news
        self._max_message_bytes = max_message_bytes
        self._sent: dict[int, int] = {}
        self._sent_lock = threading.Lock()

    def ActivateNode(self, request: Any, context: Any) -> Any:  # noqa: N802  Flower's name
        """Lets a node that was killed come back at once, and gives it again what it had not answered."""
        state: Any = self.state_factory.state()
        node = state.get_node_id_by_public_key(request.public_key)
        if node is not None:
            state.deactivate_node(node)  # the key was checked: it is the same node
        response = super().ActivateNode(request, context)
        signed = node - (1 << 64) if node >= 1 << 63 else node  # as SQLite keeps it
        state.query(
            "UPDATE message_ins SET delivered_at = '' WHERE dst_node_id = ? AND message_id NOT IN "
            "(SELECT reply_to_message_id FROM message_res)",
            (signed,),
        )
        return response

    def PullMessages(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Gives the next message, after waiting a while for one."""
        node = request.node.node_id
        self._news.forget(node)
        response = super().PullMessages(request, context)
        if not response.messages_list and self._news.wait(node, WAIT_SECONDS):
            response = super().PullMessages(request, context)
        # There may be more of them.
        self._news.tell([node] if response.messages_list else [])
        return response

    def PushMessages(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Takes one answer, in the sender's own name and of bounded size."""
        if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "one message at a time")
        if request.messages_list[0].metadata.src_node_id != request.node.node_id:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "in another node's name")
        objects = sum(1 for _ in iterate_object_tree(request.message_object_trees[0]))
        if objects > MAX_OBJECTS:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{objects} objects, {MAX_OBJECTS} at most")
        with self._sent_lock:
            self._sent[request.node.node_id] = 0
        _announce_parts(self.objectstore_factory, request)
        response = super().PushMessages(request, context)
        if "None" in response.results:
            # It answers nothing that is open: a replay, or too late.
            self.objectstore_factory.store().delete(request.message_object_trees[0].object_id)
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no open request")
        return response

    def PushObject(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Takes a part of an answer."""
        with self._sent_lock:
            sent = self._sent.get(request.node.node_id, 0) + len(request.object_content)
            self._sent[request.node.node_id] = sent
        if sent > self._max_message_bytes:
            context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"an answer of more than {self._max_message_bytes} bytes"
            )
        return super().PushObject(request, context)

    def ConfirmMessageReceived(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Forgets a request that was answered; one whose run has ended meanwhile is forgotten already."""
        state, store = self.state_factory.state(), self.objectstore_factory.store()
        try:
            return message_handler.confirm_message_received(request, state, store)
        except InvalidRunStatusException:
            return ConfirmMessageReceivedResponse()


class AppIo(ServerAppIoServicer):
    """Flower's ServerAppIo API."""

    def __init__(self, *parts: Any, news: News) -> None:
        super().__init__(*parts)
        self._news = news

    def PushMessages(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Takes requests to nodes, and wakes these."""
        _announce_parts(self.objectstore_factory, request)
        response = super().PushMessages(request, context)
        self._news.tell(message.metadata.dst_node_id for message in request.messages_list)
        return response


def _announce_parts(factory: ObjectStoreFactory, request: Any) -> None:
    """Registers the parts of messages before the messages.

    Flower does it afterwards: whoever asks in between finds a message without parts, and drops it.
    """
    for tree, message in zip(request.message_object_trees, request.messages_list, strict=False):
        factory.store().preregister(message.metadata.run_id, tree)
