"""Our messages as Flower's: one RecordDict with a JSON text and the arrays."""

from __future__ import annotations

import json

from fedpipe.errors import FederationError
from fedpipe.federation import flower_compat  # noqa: F401  first: it keeps the import of flwr light
from fedpipe.federation.messages import Arrays, Refusal, Reply, Request
from fedpipe.files import canonical_json

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict  # isort: skip

CATEGORIES = {"train": "train", "analyze": "evaluate"}


def message_type(step: str) -> str:
    """Returns Flower's message type, `category.action`, for a step."""
    return f"{CATEGORIES.get(step, 'query')}.{step}"


def request_to_message(request: Request, node_id: int, ttl: float) -> Message:
    """Returns `request`, addressed to a node."""
    head = {
        "run_id": request.run_id,
        "step": request.step,
        "server_round": request.server_round,
        "attempt": request.attempt,
        "values": dict(request.values),
    }
    content = _records(canonical_json(head), request.arrays)
    return Message(content, dst_node_id=node_id, message_type=message_type(request.step), ttl=ttl)


def message_to_request(message: Message) -> Request:
    """Returns the request in `message`.

    Raises:
      FederationError: if it holds something else.
    """
    head = _head(message)
    try:
        return Request(**head, arrays=_arrays(message.content))
    except TypeError as error:
        raise FederationError(f"Expected a request, found fields {sorted(head)}.") from error


def reply_to_message(reply: Reply | Refusal, request: Message) -> Message:
    """Returns `reply` as the answer to `request`."""
    if isinstance(reply, Refusal):
        head = canonical_json({"client": reply.client, "refusal": reply.reason, "kind": reply.kind})
        return Message(_records(head, {}), reply_to=request)
    head = canonical_json({"client": reply.client, "values": dict(reply.values)})
    return Message(_records(head, reply.arrays), reply_to=request)


def message_to_reply(message: Message, node_name: str) -> Reply | Refusal:
    """Returns the answer in `message`; whatever is not an answer is a refusal."""
    if message.has_error():
        return Refusal(client=node_name, reason=message.error.reason or "no answer")
    try:
        head = _head(message)
        if "refusal" in head:
            return Refusal(client=str(head["client"]), reason=str(head["refusal"]), kind=str(head["kind"]))
        return Reply(client=str(head["client"]), values=head["values"], arrays=_arrays(message.content))
    except (FederationError, KeyError):
        return Refusal(client=node_name, reason="the answer was malformed")


def _records(head: str, arrays: Arrays) -> RecordDict:
    records = {name: Array(array) for name, array in arrays.items()}
    return RecordDict({"message": ConfigRecord({"json": head}), "arrays": ArrayRecord(records)})


def _head(message: Message) -> dict[str, object]:
    try:
        head = json.loads(str(message.content["message"]["json"]))
    except (KeyError, ValueError, TypeError) as error:
        raise FederationError("Expected a fedpipe message, found other records.") from error
    if not isinstance(head, dict):
        raise FederationError("Expected a fedpipe message, found other records.")
    return head


def _arrays(content: RecordDict) -> Arrays:
    records = content.array_records.get("arrays", {})
    return {name: array.numpy() for name, array in records.items()}
