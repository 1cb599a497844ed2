"""Who may call a SuperLink's public port, how often, and what the log says of those who may not.

gRPC would hold a thread for every call until its content has come, whoever calls. Here a call is looked
at as soon as its headers are there; a refused one is answered at once, and its content never read.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import unquote

from fedpipe.federation import flower_compat
from fedpipe.federation.connections import Connections, peer_of
from fedpipe.federation.pki import PublicKey
from fedpipe.federation.refusals import Refusals
from fedpipe.federation.token_buckets import TokenBuckets

with flower_compat.hidden("tensorflow", "ray"):
    import grpc
    from flwr.common.constant import (
        PUBLIC_KEY_HEADER,
        SYSTEM_TIME_TOLERANCE,
        TIMESTAMP_HEADER,
        TIMESTAMP_TOLERANCE,
    )
    from flwr.server.superlink.fleet.grpc_rere.node_auth_server_interceptor import (
        NodeAuthServerInterceptor,
    )
    from flwr.server.superlink.linkstate import LinkStateFactory
    from flwr.supercore.primitives.asymmetric import bytes_to_public_key

BURST_SECONDS = 10.0
MAX_CALLS_AT_ONCE = 16  # of one key: Flower's nodes make four
FLEET = "/flwr.proto.Fleet/"
UNKNOWN_KEY = "this key is not found among the members, or did not sign"


class _Refused(Exception):  # noqa: N818  no error: it is what a guard is for
    def __init__(self, code: Any, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class Guard(NodeAuthServerInterceptor):
    """Flower's authentication of nodes, with bounds on calls and a log of who was refused and why.

    Args:
      states: Flower's.
      is_member: whether a public key, as Flower serialises it, is registered.
      max_calls_per_second: of one key.
      connections: is told which connections are members', and on which calls were refused.
      refusals: is told of each refused call.
    """

    def __init__(
        self,
        states: LinkStateFactory,
        *,
        is_member: Callable[[bytes], bool],
        max_calls_per_second: float,
        connections: Connections,
        refusals: Refusals,
    ) -> None:
        super().__init__(states)
        self._is_member = is_member
        self._buckets = TokenBuckets(max_calls_per_second, BURST_SECONDS)
        self._connections, self._refusals = connections, refusals
        self._at_once: Counter[bytes] = Counter()
        self._lock = threading.Lock()

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Returns what answers a call: as gRPC's stream of contents, of which there is one."""
        handler = continuation(details)
        return grpc.stream_unary_rpc_method_handler(
            partial(self._answer, handler, details),
            response_serializer=handler.response_serializer if handler else None,
        )

    def _answer(self, handler: Any, details: Any, contents: Iterator[bytes], context: Any) -> Any:
        connection = _name(context.peer())
        try:
            key, checked = self._check(handler, details)
            if not self._connections.proven(connection, key):
                raise _Refused(grpc.StatusCode.UNAVAILABLE, "the connection was ended")
            with self._one_of_few(key):
                with self._connections.awaiting_body(connection):
                    request = checked.request_deserializer(next(contents))
                return checked.unary_unary(request, context)
        except Exception as error:
            code, reason = _explain(error, context)
            self._connections.refused(connection)
            self._refusals.tell(f"{_method(details)}: {reason}", peer_of(connection), code.name.lower())
            context.abort(code, reason)

    def _check(self, handler: Any, details: Any) -> tuple[bytes, Any]:
        """Returns the registered key that signed a call, and what answers it."""
        if handler is None or not details.method.startswith(FLEET):
            raise _Refused(grpc.StatusCode.UNIMPLEMENTED, "no such method")
        metadata = dict(details.invocation_metadata)
        key = _checked_key(metadata.get(PUBLIC_KEY_HEADER), metadata.get(TIMESTAMP_HEADER))
        # Looked up first: signatures of strangers are not worth their verification.
        checked = super().intercept_service(lambda _: handler, details) if self._is_member(key) else None
        # Flower answers a call that is not signed as it should be with a handler that reads nothing.
        if checked is None or checked.request_deserializer is None:
            raise _Refused(grpc.StatusCode.UNAUTHENTICATED, UNKNOWN_KEY)
        if not self._buckets.take(key):
            raise _Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls")
        return key, checked

    @contextmanager
    def _one_of_few(self, key: bytes) -> Iterator[None]:
        """Holds one of the places that calls of `key` have: each takes a thread."""
        with self._lock:
            if self._at_once[key] >= MAX_CALLS_AT_ONCE:
                raise _Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls at once")
            self._at_once[key] += 1
        try:
            yield
        finally:
            with self._lock:
                self._at_once[key] -= 1
                self._at_once += Counter()  # forgets keys without calls


def _checked_key(key: Any, clock: Any) -> bytes:
    """Returns the key that a call claims to be signed with, at a time that is about now."""
    try:
        if not isinstance(bytes_to_public_key(key), PublicKey):
            raise TypeError
        skew = (_utc_now() - dt.datetime.fromisoformat(clock)).total_seconds()
    except (TypeError, ValueError, AttributeError) as error:
        raise _Refused(grpc.StatusCode.UNAUTHENTICATED, "malformed authentication") from error
    if not -SYSTEM_TIME_TOLERANCE < skew < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE:
        # Tells the time, so that a node whose clock is off can say so to its owner, and sign by ours.
        raise _Refused(grpc.StatusCode.UNAUTHENTICATED, f"clock: {_utc_now().isoformat()}")
    return bytes(key)


def _explain(error: Exception, context: Any) -> tuple[Any, str]:
    """Returns status and reason of a call that was refused, by us or by Flower."""
    if isinstance(error, _Refused):
        return error.code, error.reason
    code, told = context.code(), context.details()
    if code is None:
        return grpc.StatusCode.INVALID_ARGUMENT, f"malformed ({type(error).__name__})"
    text = told.decode(errors="replace") if isinstance(told, bytes) else str(told or "")
    return code, text.rstrip(".") or type(error).__name__


def _name(peer: str) -> str:
    """Returns the name of a connection, to which the relay bound its end of the Unix socket."""
    return unquote(peer).partition(":")[2].lstrip("\0")


def _method(details: Any) -> str:
    """Returns which method was called, for the log: a stranger may have made its name up."""
    method: str = details.method.rpartition("/")[2]
    return method if method.isalpha() and len(method) < 40 else "a call"


def _utc_now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc)
