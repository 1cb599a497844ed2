"""Who may call a SuperLink's public port, how often, and what the log says of those who may not."""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from fedpipe.federation import flower_compat
from fedpipe.federation.pki import PublicKey

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
MAX_KEYS = 10_000

logger = logging.getLogger("fedpipe.superlink")


class Guard(NodeAuthServerInterceptor):
    """Flower's authentication, with bounded rates and a log of who was refused and why."""

    def __init__(
        self, states: LinkStateFactory, max_calls_per_second: float, on_refusal: Callable[[str], None]
    ) -> None:
        super().__init__(states)
        self._rate = max_calls_per_second
        self._on_refusal = on_refusal
        self._tokens: dict[bytes, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Returns what answers a call."""
        metadata = dict(details.invocation_metadata)
        key, clock = metadata.get(PUBLIC_KEY_HEADER), metadata.get(TIMESTAMP_HEADER)
        refusal = _malformed(key, clock)
        if refusal is not None:
            return self._refuse(*refusal)
        handler = super().intercept_service(continuation, details)
        if handler is None or not self._may_call(bytes(metadata[PUBLIC_KEY_HEADER])):
            return self._refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls")
        method = details.method.rpartition("/")[2]
        return grpc.unary_unary_rpc_method_handler(
            self._logging(handler.unary_unary, method),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _may_call(self, key: bytes) -> bool:
        """Takes a token from the bucket of `key`: whoever has no valid key cannot empty that of another."""
        now, size = time.monotonic(), self._rate * BURST_SECONDS
        with self._lock:
            if len(self._tokens) > MAX_KEYS:
                self._tokens.clear()
            left, at = self._tokens.get(key, (size, now))
            left = min(size, left + (now - at) * self._rate)
            self._tokens[key] = (max(left - 1, 0.0), now)
        return left >= 1

    def _refuse(self, code: Any, reason: str) -> Any:
        def refuse(_request: bytes, context: Any) -> None:
            logger.warning("Refused a call: %s.", reason, extra={"peer": context.peer()})
            self._on_refusal(code.name.lower())
            context.abort(code, reason)

        return grpc.unary_unary_rpc_method_handler(refuse)

    def _logging(self, answer: Callable[[Any, Any], Any], method: str) -> Callable[[Any, Any], Any]:
        def logged(request: Any, context: Any) -> Any:
            try:
                return answer(request, context)
            except Exception as error:
                code, reason = context.code(), context.details()
                text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason or "")
                told = text or f"malformed ({type(error).__name__})"
                logger.warning("Refused %s: %s.", method, told.rstrip("."), extra={"peer": context.peer()})
                self._on_refusal((code or grpc.StatusCode.INVALID_ARGUMENT).name.lower())
                if code is None:
                    context.abort(grpc.StatusCode.INVALID_ARGUMENT, "malformed request")
                raise

        return logged


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


def _utc_now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc)
