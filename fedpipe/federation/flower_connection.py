"""A node's connection to a SuperLink: signed calls over TLS, signs of life, messages in parts."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fedpipe.errors import FederationError
from fedpipe.federation import flower_compat
from fedpipe.federation.pki import PrivateKey

with flower_compat.hidden("tensorflow", "ray"):
    import grpc
    from flwr.common.constant import (
        HEARTBEAT_MIN_INTERVAL,
        PUBLIC_KEY_HEADER,
        SIGNATURE_HEADER,
        TIMESTAMP_HEADER,
    )
    from flwr.common.inflatable import (
        get_all_nested_objects,
        get_object_tree,
        iterate_object_tree,
        no_object_id_recompute,
    )
    from flwr.common.inflatable_protobuf_utils import (
        make_pull_object_fn_protobuf,
        make_push_object_fn_protobuf,
    )
    from flwr.common.inflatable_utils import inflate_object_from_contents, pull_objects, push_objects
    from flwr.common.message import remove_content_from_message
    from flwr.common.serde import message_to_proto
    from flwr.proto.fleet_pb2 import (
        ActivateNodeRequest,
        DeactivateNodeRequest,
        PullMessagesRequest,
        PushMessagesRequest,
    )
    from flwr.proto.fleet_pb2_grpc import FleetStub
    from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
    from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
    from flwr.proto.node_pb2 import Node
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

from flwr.app import Message  # isort: skip

MAX_CALL_BYTES = 16 << 20
MAX_OBJECTS = 4096
CALL_SECONDS = 60.0
OBJECTS_SECONDS = 300.0
# The SuperLink counts a node as away after twice this time without a sign of life.
HEARTBEAT_SECONDS = float(HEARTBEAT_MIN_INTERVAL)
LOOK_SECONDS = 1.0
# Parts of a message follow it at once: Flower would look again after a whole second.
BACKOFF_SECONDS = 0.02
PUSH_PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
CLOCK = "clock: "
RUN_ENDED = grpc.StatusCode.PERMISSION_DENIED  # Flower's word for it

logger = logging.getLogger("fedpipe.node")


@dataclass(frozen=True, kw_only=True)
class Link:
    """Where the SuperLink is, whom to trust there, and as whom to call."""

    address: str
    ca_certificate: bytes
    key: PrivateKey


class Connection:
    """Signed calls of an active node to the SuperLink's Fleet API."""

    def __init__(self, link: Link) -> None:
        self._clock_offset = dt.timedelta()
        self._link = link
        self._channel = self._open()
        self._stub = FleetStub(self._channel)
        self._node = Node()
        self._stopped = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True, name="heartbeat")
        self.lost = False

    def _open(self) -> grpc.Channel:
        tls = grpc.ssl_channel_credentials(self._link.ca_certificate)
        limits = [
            ("grpc.max_receive_message_length", MAX_CALL_BYTES),
            ("grpc.max_send_message_length", MAX_CALL_BYTES),
            ("grpc.max_reconnect_backoff_ms", 5000),
        ]
        channel = grpc.secure_channel(self._link.address, tls, options=limits)
        return grpc.intercept_channel(channel, _Signer(self._link.key, self._now))

    def _now(self) -> dt.datetime:
        return dt.datetime.now(dt.timezone.utc) + self._clock_offset

    def activate(self) -> None:
        """Says that the node is there, and keeps saying so."""
        key = public_key_to_bytes(self._link.key.public_key())
        request = ActivateNodeRequest(public_key=key, heartbeat_interval=HEARTBEAT_SECONDS)
        try:
            response = self._stub.ActivateNode(request, timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            if not self._learn_clock(error):
                raise
            response = self._stub.ActivateNode(request, timeout=CALL_SECONDS)
        self._node = Node(node_id=response.node_id)
        self._heart.start()

    def _learn_clock(self, error: grpc.RpcError) -> bool:
        """Takes over the SuperLink's time, which only signatures use, when it refuses ours."""
        details = str(error.details())
        if not details.startswith(CLOCK):
            return False
        theirs = dt.datetime.fromisoformat(details.removeprefix(CLOCK))
        self._clock_offset = theirs - dt.datetime.now(dt.timezone.utc)
        logger.warning("This machine's clock is off by %.0f s: set it.", -self._clock_offset.total_seconds())
        return True

    def close(self) -> None:
        """Says good-bye, if that is possible, and ends the connection."""
        self._stopped.set()
        # A server that cannot be reached notices that the heartbeats end.
        with contextlib.suppress(grpc.RpcError):
            if self._node.node_id:
                self._stub.DeactivateNode(DeactivateNodeRequest(node_id=self._node.node_id), timeout=2.0)
        self._channel.close()

    def _beat(self) -> None:
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_SECONDS)
        while not self._stopped.wait(0.7 * HEARTBEAT_SECONDS):
            try:
                known = self._stub.SendNodeHeartbeat(request, timeout=HEARTBEAT_SECONDS / 2).success
            except grpc.RpcError as error:
                known = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            if not known:
                self.lost = True
                return

    def receive(self, max_bytes: int, is_over: Callable[[], bool]) -> Message | None:
        """Returns the next message, None if there is none for a while, its run has ended, or `is_over`.

        Raises:
          FederationError: it is malformed or too large.
        """
        call = self._stub.PullMessages.future(PullMessagesRequest(node=self._node), timeout=CALL_SECONDS)
        while not _is_done(call):
            if is_over():
                call.cancel()
                return None
        response = call.result()
        if not response.messages_list:
            return None
        run_id, tree = response.messages_list[0].metadata.run_id, response.message_object_trees[0]
        identities = [each.object_id for each in iterate_object_tree(tree)]
        if len(identities) > min(MAX_OBJECTS, max_bytes):
            self._confirm(run_id, tree.object_id)
            raise FederationError(f"Expected a message of {MAX_OBJECTS} objects at most, found more.")
        try:
            return self._fetch(run_id, tree.object_id, identities, max_bytes)
        except (FederationError, ValueError, KeyError):
            self._confirm(run_id, tree.object_id)
            raise
        except grpc.RpcError as error:
            if error.code() != RUN_ENDED:
                raise
            return None

    def _fetch(self, run_id: int, identity: str, objects: list[str], max_bytes: int) -> Message:
        pull = make_pull_object_fn_protobuf(self._timed(self._stub.PullObject), self._node, run_id)
        received = 0

        def bounded(object_id: str) -> bytes:
            nonlocal received
            content: bytes = pull(object_id) if received <= max_bytes else b""
            received += len(content)
            return content

        guarded = _Guarded(bounded)

        contents = pull_objects(objects, guarded, max_time=OBJECTS_SECONDS, initial_backoff=BACKOFF_SECONDS)
        guarded.check()
        if received > max_bytes:
            raise FederationError(f"Expected a message of {max_bytes} bytes at most, found a larger one.")
        message: Any = inflate_object_from_contents(identity, contents)
        if not isinstance(message, Message):
            raise FederationError("Expected a message, found another object.")
        message.metadata.__dict__["_message_id"] = identity
        return message

    def send(self, reply: Message, request: Message, elapsed_seconds: float) -> None:
        """Sends an answer, then lets the SuperLink forget the request."""
        fields = reply.metadata.__dict__
        # By the SuperLink's clock, as the request is: ours may be off.
        fields["_created_at"] = request.metadata.created_at + elapsed_seconds
        fields["_ttl"] = max(request.metadata.ttl - elapsed_seconds, 1.0)
        fields["_message_id"] = reply.object_id
        run_id = request.metadata.run_id
        with no_object_id_recompute():
            response = self._stub.PushMessages(
                PushMessagesRequest(
                    node=self._node,
                    messages_list=[message_to_proto(remove_content_from_message(reply))],
                    message_object_trees=[get_object_tree(reply)],
                ),
                timeout=CALL_SECONDS,
            )
            push = _Guarded(
                make_push_object_fn_protobuf(_patient(self._timed(self._stub.PushObject)), self._node, run_id)
            )
            push_objects(
                get_all_nested_objects(reply), push, object_ids_to_push=set(response.objects_to_push)
            )
            push.check()
        self._confirm(run_id, request.metadata.message_id)

    def _confirm(self, run_id: int, object_id: str) -> None:
        request = ConfirmMessageReceivedRequest(node=self._node, run_id=run_id, message_object_id=object_id)
        self._stub.ConfirmMessageReceived(request, timeout=CALL_SECONDS)

    @staticmethod
    def _timed(call: Callable[..., Any]) -> Callable[[Any], Any]:
        return lambda request: call(request, timeout=CALL_SECONDS)


class _Guarded:
    """Remembers what a call raised: Flower's threads drop it, and go on as if nothing had been."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call
        self._error: grpc.RpcError | None = None

    def __call__(self, *arguments: Any) -> Any:
        """Makes the call."""
        try:
            return self._call(*arguments)
        except grpc.RpcError as error:
            self._error = error
            raise

    def check(self) -> None:
        """Raises what a call raised."""
        if self._error is not None:
            raise self._error


def _patient(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Returns `call`, repeated while the server is away for a moment: half an answer helps nobody."""

    def repeated(request: Any) -> Any:
        for pause in PUSH_PAUSES_SECONDS:
            try:
                return call(request)
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
            time.sleep(pause)
        return call(request)

    return repeated


class _Signer(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """Signs each call as Flower's SuperLink expects it, by a clock that can be set."""

    def __init__(self, key: PrivateKey, now: Callable[[], dt.datetime]) -> None:
        self._key, self._now = key, now
        self._public = public_key_to_bytes(key.public_key())

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """Returns the call, signed."""
        at = self._now().isoformat()
        signature = sign_message(self._key, at.encode("ascii"))
        signed = [
            (PUBLIC_KEY_HEADER, self._public),
            (TIMESTAMP_HEADER, at),
            (SIGNATURE_HEADER, signature),
        ]
        return continuation(details._replace(metadata=[*(details.metadata or ()), *signed]), request)


def _is_done(call: Any) -> bool:
    """Returns whether `call` has come to an end, after a moment."""
    try:
        call.exception(timeout=LOOK_SECONDS)
    except grpc.FutureTimeoutError:
        return False
    return True
