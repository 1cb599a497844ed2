"""A SuperNode in one process: it asks the SuperLink for messages, and its own ClientApp answers them.

Flower's own SuperNode keeps a local port without authentication, over which another process gets each
message, and starts that process anew for each. Here the ClientApp that the data owner installed is called
in place: no port, TensorFlow is imported once, and a bundle that the server names is never even fetched.

A message is confirmed only after its answer was sent, so a node that dies gets it again when it returns;
its ledger then gives the stored answer, at no charge. All calls go out: nothing listens here.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fedpipe.errors import FederationError
from fedpipe.federation import flower_compat
from fedpipe.federation.flower_connection import RUN_ENDED, Connection, Link
from fedpipe.federation.flower_messages import message_to_request, refusal_kind, reply_to_message
from fedpipe.federation.local_grid import NodeConfig, new_context
from fedpipe.federation.messages import Refusal, Request

with flower_compat.hidden("tensorflow", "ray"):
    import grpc

from flwr.app import Message  # isort: skip
from flwr.clientapp import ClientApp  # isort: skip

# Our SuperLink lets a node wait for a message; one that answers at once must not be asked all the time.
PROMPT_SECONDS, POLL_SECONDS = 1.0, 3.0
FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 1.0, 60.0

# Nobody waits for an answer: it was given already, or too late, or its run has ended.
NOT_NEEDED = (grpc.StatusCode.FAILED_PRECONDITION, RUN_ENDED)

Decide = Callable[[Request], "Refusal | NodeConfig"]
ANSWERED, FAILED = "answered", "failed"

logger = logging.getLogger("fedpipe.node")


@dataclass(frozen=True, kw_only=True)
class Listener:
    """Who is told how a node fares.

    Attributes:
      on_state: is given each change of the connection's state, in words.
      on_contact: is called whenever the SuperLink was reached.
      on_answer: is given a request's run and step, and what came of it: ANSWERED, FAILED or the refusal's
        kind.
    """

    on_state: Callable[[str], None]
    on_contact: Callable[[], None] = lambda: None
    on_answer: Callable[[str, str, str], None] = lambda _run_id, _step, _outcome: None


class SuperNode:
    """Answers messages until it is stopped; reconnects for ever, ever more slowly.

    Args:
      link: to the SuperLink.
      client_app: gives the reply to a message; what it raises becomes an error reply without details.
      decide: refuses a request, or gives the `node_config` with which the app answers it.
      may_work: False while the owner has paused her node; it is then disconnected.
      listener: is told of connection, contacts and answers.
      max_message_bytes: of a request.
    """

    def __init__(
        self,
        link: Link,
        client_app: ClientApp,
        *,
        decide: Decide,
        may_work: Callable[[], bool],
        listener: Listener,
        max_message_bytes: int,
    ) -> None:
        self._link, self._app, self._decide = link, client_app, decide
        self._may_work, self._listener = may_work, listener
        self._max_bytes = max_message_bytes
        self._stop = threading.Event()
        self._state = ""

    def stop(self) -> None:
        """Lets `run` return after the message that is worked on."""
        self._stop.set()

    def run(self) -> None:
        """Serves until `stop`."""
        pause = FIRST_PAUSE_SECONDS
        while not self._stop.is_set():
            if not self._may_work():
                self._set_state("paused")
                self._stop.wait(1.0)
                continue
            try:
                with _connected(self._link) as connection:
                    self._set_state("connected")
                    pause = FIRST_PAUSE_SECONDS
                    self._serve(connection)
            except grpc.RpcError as error:
                self._set_state(_explain(error))
                # All nodes lose a SuperLink at once, and must not come back at once.
                self._stop.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311  no secret
                pause = min(2 * pause, LAST_PAUSE_SECONDS)
        self._set_state("stopped")

    def _set_state(self, state: str) -> None:
        if state != self._state:
            self._state = state
            self._listener.on_state(state)

    def _serve(self, connection: Connection) -> None:
        def is_over() -> bool:
            return self._stop.is_set() or not self._may_work() or connection.lost

        while not is_over():
            asked = time.monotonic()
            try:
                message = connection.receive(self._max_bytes, is_over)
            except (FederationError, ValueError, KeyError) as error:
                logger.warning("Refused a message (%s).", type(error).__name__)
                continue
            self._listener.on_contact()
            if message is not None:
                self._reply(connection, message)
            elif time.monotonic() - asked < PROMPT_SECONDS:
                self._stop.wait(POLL_SECONDS)

    def _answer(self, message: Message) -> Message:
        request = message_to_request(message)
        decision = self._decide(request)
        if isinstance(decision, Refusal):
            reply = reply_to_message(decision, message)
        else:
            reply = self._app(message, new_context(message.metadata.dst_node_id, node_config=decision))
        kind = refusal_kind(reply)
        outcome = ANSWERED if kind is None else kind or FAILED
        self._listener.on_answer(request.run_id, request.step, outcome)
        return reply

    def _reply(self, connection: Connection, message: Message) -> None:
        begun = time.monotonic()
        try:
            reply = self._answer(message)
        except Exception as error:
            # Its text may hold a record; the coordinator learns only that the client failed.
            logger.exception("The ClientApp raised %s.", type(error).__name__)
            self._listener.on_answer("", "", FAILED)
            reply = flower_compat.failure_reply(message)
        try:
            connection.send(reply, message, time.monotonic() - begun)
        except grpc.RpcError as error:
            if error.code() not in NOT_NEEDED:
                raise
            logger.info("An answer came too late, or twice; it was not needed.")


@contextmanager
def _connected(link: Link) -> Iterator[Connection]:
    connection = Connection(link)
    try:
        connection.activate()
        yield connection
    finally:
        connection.close()


def _explain(error: grpc.RpcError) -> str:
    """Returns what keeps the node from the SuperLink, in words that its owner can act on."""
    code, details = error.code(), str(error.details())
    if "CERTIFICATE_VERIFY_FAILED" in details or "certificate verify failed" in details:
        return "the server shows a certificate that this invitation does not trust, or that has expired"
    if "not found" in details:
        return "the server does not know this key: it was not admitted yet, or was removed"
    if code == grpc.StatusCode.UNAVAILABLE or code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return "the server cannot be reached"
    return f"the server refuses: {code.name.lower()}"
