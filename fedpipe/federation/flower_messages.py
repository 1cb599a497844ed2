"""Our messages as Flower's: one RecordDict with a JSON text and the arrays.

Whatever arrives may come from anybody: a request or an answer is exactly what is described
here, or it is none. What is said about a failure is our own text, never what came along.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Annotated, Any, NoReturn

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from fedpipe.errors import FederationError, Shortfall
from fedpipe.federation import flower_compat  # noqa: F401  first: it keeps the import of flwr light
from fedpipe.federation.messages import ABSENT, Arrays, Heads, Refusal, Reply, Request
from fedpipe.files import ordered_json

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict  # isort: skip

CATEGORIES = {"train": "train", "analyze": "evaluate"}
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,249}$"
MAX_REASON_LENGTH = 1000
MAX_SHORTFALLS = 10_000
ERRORS = {  # Flower's, of which it tells the number
    2: "the client failed; its own log says why",
    3: "its answer came without all its parts",
    5: "it went away before it answered",
}
MAX_COUNT = 2**31 - 1

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]


class _Head(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _RequestHead(_Head):
    run_id: Name
    step: Name
    server_round: int = Field(ge=0, le=MAX_COUNT)
    attempt: int = Field(ge=0, le=MAX_COUNT)
    values: dict[str, Any]
    heads: Heads = Heads()


class _ReplyHead(_Head):
    client: Name
    values: dict[str, Any]
    heads: Heads = Heads()


class _RefusalHead(_Head):
    client: Name
    refusal: str
    kind: str = Field(pattern=r"^[A-Za-z]{0,64}$")
    shortfalls: list[Shortfall] = Field(max_length=MAX_SHORTFALLS)


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
        "heads": request.heads.model_dump(exclude_none=True),
    }
    content = _records(ordered_json(head), request.arrays)
    return Message(content, dst_node_id=node_id, message_type=message_type(request.step), ttl=ttl)


def message_to_request(message: Message) -> Request:
    """Returns the request in `message`.

    Raises:
      FederationError: if it holds something else.
    """
    try:
        head = _RequestHead.model_validate(_head(message))
        return Request(**dict(head), arrays=_arrays(message.content))
    except Exception as error:  # pydantic and numpy raise many kinds for what they did not write
        raise FederationError("Expected a fedpipe request, found another message.") from error


def reply_to_message(reply: Reply | Refusal, request: Message) -> Message:
    """Returns `reply` as the answer to `request`."""
    if isinstance(reply, Refusal):
        refused = {"client": reply.client, "refusal": reply.reason, "kind": reply.kind}
        shortfalls = [asdict(shortfall) for shortfall in reply.shortfalls]
        return Message(_records(ordered_json(refused | {"shortfalls": shortfalls}), {}), reply_to=request)
    head = {"client": reply.client, "values": dict(reply.values)}
    heads = {"heads": reply.heads.model_dump(exclude_none=True)}
    return Message(_records(ordered_json(head | heads), reply.arrays), reply_to=request)


def message_to_reply(message: Message, node_name: str) -> Reply | Refusal:
    """Returns the answer in `message`; whatever is not an answer is a refusal without details."""
    if message.has_error():
        reason = ERRORS.get(message.error.code, f"no answer (Flower error {message.error.code})")
        return Refusal(client=node_name, reason=reason, kind=ABSENT)
    try:
        head = _head(message)
        if "refusal" in head:
            refusal = _RefusalHead.model_validate_json(json.dumps(head))
            return Refusal(
                client=refusal.client,
                reason=_printable(refusal.refusal),
                kind=refusal.kind,
                shortfalls=tuple(_shown(each) for each in refusal.shortfalls),
            )
        reply = _ReplyHead.model_validate(head)
        return Reply(**dict(reply), arrays=_arrays(message.content))
    except Exception:  # pydantic and numpy raise many kinds for what they did not write
        return Refusal(client=node_name, reason="the answer was malformed")


def refusal_kind(message: Message) -> str | None:
    """Returns the kind of the refusal in an answer of our own, or None if it is a reply."""
    head = _head(message)
    return str(head["kind"]) if "refusal" in head else None


def _records(head: str, arrays: Arrays) -> RecordDict:
    records: dict[str, Array] = {name: Array(array) for name, array in arrays.items()}
    return RecordDict({"message": ConfigRecord({"json": head}), "arrays": ArrayRecord(records)})


def _head(message: Message) -> dict[str, Any]:
    text = message.content.config_records["message"]["json"]
    head: dict[str, Any] = json.loads(str(text), parse_constant=_refuse_constant)
    return head


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"Expected JSON numbers, found {name}.")


def _arrays(content: RecordDict) -> Arrays:
    return {name: array.numpy() for name, array in content.array_records["arrays"].items()}


def _shown(shortfall: Shortfall) -> Shortfall:
    return replace(shortfall, block=_printable(shortfall.block), split=_printable(shortfall.split))


def _printable(text: str) -> str:
    """Returns `text` as it may be shown in a terminal: one line, of bounded length."""
    return "".join(c if c.isprintable() else " " for c in text[:MAX_REASON_LENGTH])
