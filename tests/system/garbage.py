"""A member's node that answers what it likes: `python garbage.py HOME DATA`, as spoil.json in HOME says."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from clients.home import NodeHome
from clients.join import join
from fedpipe.federation import flower_node

import clients.app  # isort: skip

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict  # isort: skip

Spoil = Callable[[str, dict[str, Any]], RecordDict]


def _content(head: str, arrays: dict[str, Any]) -> RecordDict:
    kept = {name: each if isinstance(each, Array) else Array(each) for name, each in arrays.items()}
    return RecordDict({"message": ConfigRecord({"json": head}), "arrays": ArrayRecord(kept)})


def noise(_head: str, _arrays: dict[str, Any]) -> RecordDict:
    """Random bytes, in place of a message."""
    return RecordDict({"x": ConfigRecord({"y": os.urandom(1 << 16)})})


def half(head: str, arrays: dict[str, Any]) -> RecordDict:
    """A message that breaks off, with arrays that do."""
    cut = {name: _raw(Array(each), lambda data: data[: len(data) // 2]) for name, each in arrays.items()}
    return _content(head[: len(head) // 2], cut)


def torn(head: str, arrays: dict[str, Any]) -> RecordDict:
    """The right head, with arrays that break off."""
    return _content(head, {name: _raw(Array(each), lambda data: data[:-7]) for name, each in arrays.items()})


def bytes_(head: str, arrays: dict[str, Any]) -> RecordDict:
    """The right head, with random bytes for arrays."""
    return _content(
        head, {name: _raw(Array(each), lambda data: os.urandom(len(data))) for name, each in arrays.items()}
    )


def shapes(head: str, arrays: dict[str, Any]) -> RecordDict:
    """The right message, with arrays of other shapes and kinds."""
    rng = np.random.default_rng()
    kinds = (np.float64, np.int8, np.complex64, np.bool_)
    return _content(
        head, {name: (9 * rng.standard_normal((3, 5))).astype(rng.choice(kinds)) for name in arrays}
    )


def numbers(head: str, arrays: dict[str, Any]) -> RecordDict:
    """The right message, with random numbers of the right shape: huge ones."""
    rng = np.random.default_rng()
    huge = {
        name: rng.integers(2**62, size=each.shape, dtype=np.int64)
        if each.dtype.kind in "iu"
        else (1e30 * rng.standard_normal(each.shape)).astype(each.dtype)
        for name, each in arrays.items()
    }
    return _content(head, huge)


def nan(head: str, arrays: dict[str, Any]) -> RecordDict:
    """The right message, with no numbers."""
    return _content(head, {name: np.full(each.shape, np.nan) for name, each in arrays.items()})


def claims(head: str, _arrays: dict[str, Any]) -> RecordDict:
    """An array that claims to be of eight terabytes."""
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
    whole = header.ljust(127) + b"\n"
    return _content(head, {"histogram": Array("float64", (10**12,), "numpy.ndarray", whole)})


def values(head: str, arrays: dict[str, Any]) -> RecordDict:
    """The right arrays, with values of another kind, deeply nested."""
    changed = json.loads(head)
    nested: Any = 1
    for _ in range(400):
        nested = [nested]
    changed["values"] = dict.fromkeys([*changed.get("values", {}), "x\x1b[2J"], nested)
    return _content(json.dumps(changed), arrays)


def refusal(head: str, _arrays: dict[str, Any]) -> RecordDict:
    """A refusal with control characters and a kind of its own."""
    name = json.loads(head)["client"]
    told = {"client": name, "refusal": "\x1b[2J\r\nfedpipe: all is well\n" * 999, "kind": "K\n" * 9999}
    return _content(json.dumps(told | {"shortfalls": []}), {})


def shortfalls(head: str, _arrays: dict[str, Any]) -> RecordDict:
    """A refused budget, with blocks that nobody has."""
    one = {"block": "\x1b[2J\n" * 999, "split": "x", "requested": 1e308, "remaining": -1e308}
    one |= {"renyi_order": 2, "epsilon": 0.0, "delta": 0.0}
    told = {"client": json.loads(head)["client"], "refusal": "no", "kind": "BudgetError"}
    return _content(json.dumps(told | {"shortfalls": [one] * 500}), {})


def _raw(array: Array, change: Callable[[bytes], bytes]) -> Array:
    return Array(array.dtype, tuple(array.shape), array.stype, change(array.data))


SPOIL: dict[str, Spoil] = {
    "noise": noise,
    "half": half,
    "torn": torn,
    "bytes": bytes_,
    "shapes": shapes,
    "numbers": numbers,
    "nan": nan,
    "claims": claims,
    "values": values,
    "refusal": refusal,
    "shortfalls": shortfalls,
}


def spoiling(home: Path, honest: Callable[[Message, Context], Message]) -> Callable[..., Message]:
    """Returns the app, with answers spoilt as spoil.json says: kinds by step, or by step and round."""

    def app(message: Message, context: Context) -> Message:
        reply = honest(message, context)
        asked = json.loads(message.content.config_records["message"]["json"])
        chosen = json.loads((home / "spoil.json").read_text())
        step, number = asked["step"], asked["server_round"]
        kind = chosen.get(f"{step}-{number}", chosen.get(step))
        if kind:
            head = str(reply.content.config_records["message"]["json"])
            arrays = {name: each.numpy() for name, each in reply.content.array_records["arrays"].items()}
            return Message(SPOIL[kind](head, arrays), reply_to=message)
        return reply

    return app


if __name__ == "__main__":
    place = Path(sys.argv[1])
    flower_node.refusal_kind = lambda _message: None  # an honest node sends nothing that it cannot read
    clients.app.app = spoiling(place, clients.app.app)  # type: ignore[assignment]
    join(NodeHome(place), [sys.argv[2]])
