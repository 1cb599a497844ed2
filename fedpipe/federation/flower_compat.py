"""Everything of Flower that is not `flwr.app`, `flwr.clientapp` or `flwr.serverapp`.

Importing flwr 1.23 imports TensorFlow and Ray as well (20-30 s cold). Both are hidden while
it loads here; import this module before any other that names flwr.
"""

from __future__ import annotations

import logging
import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")


@contextmanager
def hidden(*names: str) -> Iterator[None]:
    """Makes modules that are not loaded yet seem to be missing while the block imports others."""
    absent = [name for name in names if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in absent:
            if sys.modules.get(name, ...) is None:
                del sys.modules[name]


with hidden("tensorflow", "ray"):
    import flwr.app
    import flwr.clientapp
    import flwr.serverapp
    from flwr.app import Error, Message
    from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
    from flwr.common.message import make_message
    from flwr.common.serde import message_from_proto, message_to_proto
    from flwr.common.typing import Run

# It tells of every connection and poll.
logging.getLogger("flwr").setLevel(logging.WARNING)


def new_run(run_id: int) -> Any:
    """Returns Flower's record of a run that it did not start."""
    return Run.create_empty(run_id)


def address(message: Message, run_id: int) -> str:
    """Fills in what a SuperLink would, and returns the new message id."""
    fields = message.metadata.__dict__
    fields["_run_id"] = run_id
    fields["_src_node_id"] = SUPERLINK_NODE_ID
    fields["_message_id"] = uuid.uuid4().hex
    return str(fields["_message_id"])


def give_id(message: Message) -> Message:
    """Gives a reply the identity that a SuperLink would."""
    message.metadata.__dict__["_message_id"] = uuid.uuid4().hex
    return message


def copy_over_wire(message: Message) -> Message:
    """Returns what arrives when `message` is serialised and sent: nothing stays shared."""
    identity = message.metadata.message_id
    arrived = message_from_proto(message_to_proto(message))
    arrived.metadata.__dict__["_message_id"] = identity
    return arrived


def failure_reply(request: Message) -> Message:
    """Returns the error reply of a ClientApp that raised; without details, which could hold a record."""
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "the client failed"), reply_to=request)


__all__ = [
    "address",
    "copy_over_wire",
    "failure_reply",
    "flwr",
    "give_id",
    "hidden",
    "make_message",
    "new_run",
]
