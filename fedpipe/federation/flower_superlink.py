"""Flower's SuperLink, put together from its own parts, with one port that others can reach.

`flower-superlink` binds every interface, gives launch tokens and node registration to whoever reaches
its ports, and takes messages of two gigabytes at any rate. Here the same servicers stand behind:

  fleet        one TLS port, for nodes whose keys are registered; sizes and rates are bounded
  control,     Unix sockets in a directory that only the operator can open: neither has any
  serverappio  authentication of its own

State is in SQLite: a SuperLink that was killed goes on where it was.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedpipe.errors import ConfigError
from fedpipe.federation import flower_compat
from fedpipe.federation.pki import PublicKey, read_public

with flower_compat.hidden("tensorflow", "ray"):
    import grpc
    from flwr.common.constant import (
        HEARTBEAT_DEFAULT_INTERVAL,
        NOOP_FLWR_AID,
        PUBLIC_KEY_HEADER,
        SYSTEM_TIME_TOLERANCE,
        TIMESTAMP_HEADER,
        TIMESTAMP_TOLERANCE,
    )
    from flwr.common.inflatable import iterate_object_tree
    from flwr.proto.control_pb2_grpc import add_ControlServicer_to_server
    from flwr.proto.fleet_pb2_grpc import add_FleetServicer_to_server
    from flwr.proto.serverappio_pb2_grpc import add_ServerAppIoServicer_to_server
    from flwr.server.superlink.fleet.grpc_rere.fleet_servicer import FleetServicer
    from flwr.server.superlink.fleet.grpc_rere.node_auth_server_interceptor import (
        NodeAuthServerInterceptor,
    )
    from flwr.server.superlink.linkstate import LinkStateFactory
    from flwr.server.superlink.serverappio.serverappio_servicer import ServerAppIoServicer
    from flwr.supercore.ffs import FfsFactory
    from flwr.supercore.object_store import ObjectStoreFactory
    from flwr.supercore.primitives.asymmetric import bytes_to_public_key, public_key_to_bytes
    from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin, NoOpControlAuthzPlugin
    from flwr.superlink.servicer.control.control_account_auth_interceptor import (
        ControlAccountAuthInterceptor,
    )
    from flwr.superlink.servicer.control.control_servicer import ControlServicer

# Flower cuts arrays into chunks of 5 MiB, each a message of its own.
MAX_CALL_BYTES = 16 << 20
MAX_OBJECTS = 4096  # of one answer
MAX_THREADS = 256  # each connected node holds one while it waits
WAIT_SECONDS = 15.0
BURST_SECONDS = 10.0
REGISTERED = ("registered", "online", "offline")  # Flower's words for nodes that were not struck off
STOP_SECONDS = 2.0

logger = logging.getLogger("fedpipe.superlink")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one node may use: bytes of one answer, and calls a second, over ten seconds."""

    max_message_bytes: int
    max_calls_per_second: float


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Where a SuperLink listens: one TLS port for nodes, two Unix sockets for the operator."""

    fleet: str
    control: str
    serverappio: str


class SuperLink:
    """A SuperLink in this process.

    Args:
      database: SQLite file of Flower's state.
      bundles: directory of Flower's bundles.
      certificates: (authority, certificate, key), PEM.
      addresses: where to listen.
      limits: of each node.
    """

    def __init__(
        self,
        *,
        database: Path,
        bundles: Path,
        certificates: tuple[bytes, bytes, bytes],
        addresses: Addresses,
        limits: Limits,
    ) -> None:
        self._states = LinkStateFactory(str(database))
        parts = (self._states, FfsFactory(str(bundles)), ObjectStoreFactory(str(database)))
        self._states.state()  # one process makes the tables
        authority, certificate, key = certificates
        tls = grpc.ssl_server_credentials(((key, certificate),), root_certificates=authority)
        guard = _Guard(self._states, limits.max_calls_per_second)
        self._news = _News()
        fleet = _Fleet(*parts, news=self._news, max_message_bytes=limits.max_message_bytes)
        self._servers = [
            _serve(fleet, add_FleetServicer_to_server, addresses.fleet, tls=tls, interceptors=[guard]),
            _serve(_AppIo(*parts, news=self._news), add_ServerAppIoServicer_to_server, addresses.serverappio),
            _serve(
                ControlServicer(*parts, is_simulation=False, authn_plugin=_anybody(NoOpControlAuthnPlugin)),
                add_ControlServicer_to_server,
                addresses.control,
                interceptors=[
                    ControlAccountAuthInterceptor(
                        _anybody(NoOpControlAuthnPlugin), _anybody(NoOpControlAuthzPlugin)
                    )
                ],
            ),
        ]

    def start(self) -> None:
        """Begins to serve."""
        for server in self._servers:
            server.start()

    def stop(self) -> None:
        """Ends all calls, after a moment for those that are under way."""
        self._news.close()
        for stopped in [server.stop(STOP_SECONDS) for server in self._servers]:
            stopped.wait()

    def register(self, keys: Mapping[str, str]) -> tuple[int, int]:
        """Makes the registered nodes exactly those of `keys`, public keys in OpenSSH's format by name.

        Returns how many nodes are new, and how many keys were struck off.
        """
        state = self._states.state()
        wanted = {public_key_to_bytes(read_public(text)) for text in keys.values()}
        registered = state.get_node_info(statuses=REGISTERED)
        known = {node.public_key: node.node_id for node in registered}
        for key in known.keys() - wanted:
            state.delete_node(NOOP_FLWR_AID, known[key])
        for key in wanted - known.keys():
            state.create_node(NOOP_FLWR_AID, key, HEARTBEAT_DEFAULT_INTERVAL)
        return len(wanted - known.keys()), len(known.keys() - wanted)


def _anybody(plugin: Callable[[Path, bool], Any]) -> Any:
    """Returns a plugin that asks nothing: the socket's directory decides who may connect."""
    return plugin(Path(), False)


def _serve(
    servicer: Any,
    add: Callable[[Any, grpc.Server], None],
    address: str,
    *,
    tls: Any = None,
    interceptors: list[Any] | None = None,
) -> grpc.Server:
    server = grpc.server(
        ThreadPoolExecutor(max_workers=MAX_THREADS),
        maximum_concurrent_rpcs=2 * MAX_THREADS,
        interceptors=interceptors or (),
        options=[
            ("grpc.max_receive_message_length", MAX_CALL_BYTES),
            ("grpc.max_send_message_length", MAX_CALL_BYTES),
            ("grpc.so_reuseport", 0),
            ("grpc.max_connection_idle_ms", 300_000),
            ("grpc.http2.max_pings_without_data", 0),
        ],
    )
    add(servicer, server)
    try:
        server.add_secure_port(address, tls) if tls else server.add_insecure_port(address)
    except RuntimeError as error:
        raise ConfigError(
            f"Expected to listen on {address}, found it taken or no address of this machine: see listen in "
            "federation.yaml."
        ) from error
    return server


class _News:
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


class _Fleet(FleetServicer):
    """Flower's Fleet API, for nodes that wait, die and come back, and for answers of bounded size."""

    def __init__(self, *parts: Any, news: _News, max_message_bytes: int) -> None:
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


class _AppIo(ServerAppIoServicer):
    """Flower's ServerAppIo API."""

    def __init__(self, *parts: Any, news: _News) -> None:
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


class _Guard(NodeAuthServerInterceptor):
    """Flower's authentication, with bounded rates and a log of who was refused and why."""

    def __init__(self, states: LinkStateFactory, max_calls_per_second: float) -> None:
        super().__init__(states)
        self._rate = max_calls_per_second
        self._tokens: dict[bytes, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Returns what answers a call."""
        metadata = dict(details.invocation_metadata)
        key, clock = metadata.get(PUBLIC_KEY_HEADER), metadata.get(TIMESTAMP_HEADER)
        refusal = _malformed(key, clock)
        if refusal is not None:
            return _refuse(*refusal)
        handler = super().intercept_service(continuation, details)
        if handler is None or not self._may_call(bytes(metadata[PUBLIC_KEY_HEADER])):
            return _refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls")
        method = details.method.rpartition("/")[2]
        return grpc.unary_unary_rpc_method_handler(
            _logging(handler.unary_unary, method),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _may_call(self, key: bytes) -> bool:
        """Takes a token from the bucket of `key`: whoever has no valid key cannot empty that of another."""
        now, size = time.monotonic(), self._rate * BURST_SECONDS
        with self._lock:
            if len(self._tokens) > 10_000:
                self._tokens.clear()
            left, at = self._tokens.get(key, (size, now))
            left = min(size, left + (now - at) * self._rate)
            self._tokens[key] = (max(left - 1, 0.0), now)
        return left >= 1


def _malformed(key: Any, clock: Any) -> tuple[Any, str] | None:
    try:
        if not isinstance(bytes_to_public_key(key), PublicKey):
            raise TypeError
        skew = (_utc_now() - dt.datetime.fromisoformat(clock)).total_seconds()
    except (TypeError, ValueError, AttributeError):
        return grpc.StatusCode.UNAUTHENTICATED, "malformed authentication"
    if not -SYSTEM_TIME_TOLERANCE < skew < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE:
        # Tells the time, so that a node whose clock is off can say so to its owner, and sign by ours.
        return grpc.StatusCode.UNAUTHENTICATED, f"clock: {_utc_now().isoformat()}"
    return None


def _refuse(code: Any, reason: str) -> Any:
    def refuse(_request: bytes, context: Any) -> None:
        logger.warning("Refused a call: %s.", reason, extra={"peer": context.peer()})
        context.abort(code, reason)

    return grpc.unary_unary_rpc_method_handler(refuse)


def _logging(answer: Callable[[Any, Any], Any], method: str) -> Callable[[Any, Any], Any]:
    def logged(request: Any, context: Any) -> Any:
        try:
            return answer(request, context)
        except Exception as error:
            code, reason = context.code(), context.details()
            text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason or "")
            told = text or f"malformed ({type(error).__name__})"
            logger.warning("Refused %s: %s.", method, told, extra={"peer": context.peer()})
            if code is None:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "malformed request")
            raise

    return logged


def _utc_now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc)
