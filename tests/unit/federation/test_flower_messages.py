"""Our messages in Flower's envelopes, from friends and from anybody."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from fedpipe.errors import FederationError, Shortfall
from fedpipe.federation import Refusal, Reply, Request, flower_compat
from fedpipe.federation.flower_messages import (
    MAX_REASON_LENGTH,
    message_to_reply,
    message_to_request,
    message_type,
    reply_to_message,
    request_to_message,
)
from fedpipe.ledger import SignedHead

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict  # isort: skip

REQUEST = Request(
    run_id="run-1",
    step="train",
    server_round=2,
    attempt=1,
    values={"step_sizes": {"client-1": 0.25}, "text": "ü"},
    arrays={"weights": np.array([1.5, -2.0], np.float32), "scalar": np.array(2), "none": np.zeros((0, 3))},
)
SECRET = "patient Jane Roe, 1971-02-03"
HEAD = {"ledger": "ab", "position": 7, "digest": "cd" * 32, "signature": "ef"}


def _sent(request: Request = REQUEST) -> Message:
    message = request_to_message(request, 7, ttl=60.0)
    flower_compat.address(message, 1)
    return flower_compat.copy_over_wire(message)


def _answered(answer: Reply | Refusal) -> Reply | Refusal:
    message = flower_compat.copy_over_wire(reply_to_message(answer, _sent()))
    return message_to_reply(message, "node-7")


def _forged(head: Any, arrays: dict[str, Array] | None = None) -> Message:
    text = head if isinstance(head, str) else json.dumps(head)
    content = RecordDict({"message": ConfigRecord({"json": text}), "arrays": ArrayRecord(arrays or {})})
    return Message(content, reply_to=_sent())


def test_request_survives_the_wire_with_its_digest() -> None:
    arrived = message_to_request(_sent())
    assert arrived.digest == REQUEST.digest
    assert (arrived.run_id, arrived.step, arrived.server_round, arrived.attempt) == ("run-1", "train", 2, 1)
    assert arrived.values == REQUEST.values
    assert {name: array.dtype for name, array in arrived.arrays.items()} == {
        name: array.dtype for name, array in REQUEST.arrays.items()
    }


def test_reply_survives_the_wire() -> None:
    arrived = _answered(Reply(client="client-1", values={"a": [1]}, arrays={"sum": np.arange(3)}))
    assert isinstance(arrived, Reply)
    assert (arrived.client, arrived.values) == ("client-1", {"a": [1]})
    assert arrived.arrays["sum"].tolist() == [0, 1, 2]


def test_refusal_survives_the_wire() -> None:
    refusal = Refusal(client="client-1", reason="no budget", kind="BudgetError")
    assert _answered(refusal) == refusal


@pytest.mark.parametrize(
    ("step", "expected"),
    [("train", "train.train"), ("analyze", "evaluate.analyze"), ("ingest", "query.ingest")],
)
def test_steps_travel_under_flower_s_categories(step: str, expected: str) -> None:
    assert message_type(step) == expected


@pytest.mark.parametrize(
    "change",
    [
        {"server_round": "2"},
        {"server_round": 2.0},
        {"server_round": True},
        {"server_round": -1},
        {"server_round": 2**40},
        {"attempt": None},
        {"run_id": 5},
        {"run_id": "../../etc"},
        {"run_id": "run/client-2"},
        {"run_id": ""},
        {"values": []},
        {"values": None},
        {"arrays": {}},
        {"more": 1},
    ],
    ids=str,
)
def test_a_request_of_another_form_is_refused(change: dict[str, Any]) -> None:
    head = {"run_id": "run-1", "step": "train", "server_round": 2, "attempt": 1, "values": {}}
    assert message_to_request(_forged(head)).server_round == 2
    with pytest.raises(FederationError, match="fedpipe request"):
        message_to_request(_forged(head | change))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        '{"run_id":"r","step":"train","server_round":1,"attempt":0,"values":{"x":NaN}}',
        '{"run_id":"r","step":"train","server_round":1,"attempt":0}',
    ],
)
def test_a_request_of_other_text_is_refused(text: str) -> None:
    with pytest.raises(FederationError, match="fedpipe request"):
        message_to_request(_forged(text))


def test_a_request_without_our_records_is_refused() -> None:
    with pytest.raises(FederationError, match="fedpipe request"):
        message_to_request(Message(RecordDict(), reply_to=_sent()))


def test_an_error_reply_becomes_a_refusal_without_details() -> None:
    message = Message(Error(2, SECRET), reply_to=_sent())
    refusal = message_to_reply(message, "node-7")
    assert refusal == Refusal(
        client="node-7", reason="the client failed; its own log says why", kind="absent"
    )


BLOCK: dict[str, Any] = {
    "block": "client-1/2026",
    "split": "train",
    "requested": 2.0,
    "remaining": 1.0,
    "renyi_order": 8,
    "epsilon": 4.0,
    "delta": 1e-5,
}


def _broken_array(**changes: Any) -> Array:
    array = Array(np.arange(3.0))
    for name, value in changes.items():
        setattr(array, name, value)
    return array


@pytest.mark.parametrize(
    "message",
    [
        _forged("no json " + SECRET),
        _forged([SECRET]),
        _forged({"client": SECRET, "values": {}}),
        _forged({"client": "client-1"}),
        _forged({"client": "client-1", "values": SECRET}),
        _forged({"client": "client-1", "values": {}, "more": SECRET}),
        _forged({"client": "client-1", "values": {}, "heads": {"sender": {**HEAD, "position": 2**31}}}),
        _forged({"client": ["client-1"], "refusal": SECRET, "kind": ""}),
        _forged({"client": "client-1", "refusal": {"text": SECRET}, "kind": ""}),
        _forged('{"client":"client-1","values":{"x":Infinity}}'),
        _forged({"client": "client-1", "values": {}}, {"a": _broken_array(data=SECRET.encode())}),
        _forged({"client": "client-1", "values": {}}, {"a": _broken_array(stype="pickle")}),
        _forged({"client": "client-1", "refusal": "no", "kind": f"{SECRET}\n", "shortfalls": []}),
        _forged({"client": "client-1", "refusal": "no", "kind": "K" * 65, "shortfalls": []}),
        _forged({"client": "client-1", "refusal": "no", "kind": "K", "shortfalls": [BLOCK] * 10_001}),
        Message(RecordDict({"other": ConfigRecord({"json": SECRET})}), reply_to=_sent()),
    ],
)
def test_a_malformed_answer_becomes_a_refusal_without_details(message: Message) -> None:
    refusal = message_to_reply(flower_compat.copy_over_wire(message), "node-7")
    assert refusal == Refusal(client="node-7", reason="the answer was malformed")


def test_heads_travel_beside_an_answer() -> None:
    message = _forged({"client": "client-1", "values": {}, "heads": {"sender": HEAD}})
    reply = message_to_reply(flower_compat.copy_over_wire(message), "node-7")
    assert isinstance(reply, Reply)
    assert reply.heads.sender == SignedHead.model_validate(HEAD)


def test_a_refusal_cannot_write_to_the_operator_s_terminal() -> None:
    arrived = _answered(Refusal(client="client-1", reason="a\x1b[2Jb\nc" + "d" * 5000))
    assert isinstance(arrived, Refusal)
    assert arrived.reason.startswith("a [2Jb cd")
    assert arrived.reason.isprintable()
    assert len(arrived.reason) == MAX_REASON_LENGTH


def test_the_blocks_of_a_refusal_cannot_either() -> None:
    shortfall = Shortfall(**BLOCK | {"block": "a\x1b[2J\n" * 999})
    arrived = _answered(Refusal(client="client-1", reason="no", kind="BudgetError", shortfalls=(shortfall,)))
    assert isinstance(arrived, Refusal)
    assert arrived.shortfalls[0].block.isprintable()
    assert len(arrived.shortfalls[0].block) == MAX_REASON_LENGTH
