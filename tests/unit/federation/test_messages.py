"""Messages as bytes: what is equal, what differs, what is refused."""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpipe.errors import FederationError
from fedpipe.federation import Reply, Request
from fedpipe.federation.messages import (
    array_of,
    counts_of,
    decode,
    decode_reply,
    encode,
    encode_reply,
    sum_counts,
)

REQUEST = Request(
    run_id="run-1",
    step="train",
    server_round=3,
    attempt=1,
    values={"rate": 0.1},
    arrays={"weights": np.array([1.0, 2.0], dtype=np.float32)},
)

CHANGES: list[dict[str, Any]] = [
    {"run_id": "run-2"},
    {"step": "analyze"},
    {"server_round": 4},
    {"attempt": 0},
    {"values": {"rate": 0.2}},
    {"values": {"rate": 0.1, "more": None}},
    {"values": {}},
    {"arrays": {"weights": np.array([1.0, 2.5], dtype=np.float32)}},
    {"arrays": {"weights": np.array([1.0, 2.0], dtype=np.float64)}},
    {"arrays": {"weights": np.array([[1.0, 2.0]], dtype=np.float32)}},
    {"arrays": {"bias": np.array([1.0, 2.0], dtype=np.float32)}},
    {"arrays": {}},
]


@pytest.mark.parametrize(
    "array",
    [
        np.array(3.5),
        np.array(7, dtype=np.int64),
        np.zeros(0, dtype=np.float32),
        np.zeros((0, 4), dtype=np.int64),
        np.arange(6, dtype=np.int32).reshape(2, 3),
        np.array([True, False]),
        np.array([np.nan, np.inf]),
    ],
    ids=["scalar", "integer-scalar", "empty", "empty-rows", "matrix", "bool", "not-finite"],
)
def test_arrays_survive_with_shape_type_and_values(array: np.ndarray[Any, Any]) -> None:
    _, _, arrays = decode(encode("client", {}, {"a": array}))
    assert arrays["a"].shape == array.shape
    assert arrays["a"].dtype == array.dtype
    np.testing.assert_array_equal(arrays["a"], array)


def test_identity_and_values_survive() -> None:
    values = {"text": "é", "list": [1, 2.5, None], "nested": {"yes": True}}
    assert decode(encode(["run", 1], values, {})) == (["run", 1], values, {})


def test_reply_survives_its_stored_form() -> None:
    reply = Reply(client="client-1", values={"a": 1}, arrays={"sum": np.arange(3.0)})
    again = decode_reply(encode_reply(reply))
    assert (again.client, again.values) == ("client-1", {"a": 1})
    np.testing.assert_array_equal(again.arrays["sum"], np.arange(3.0))


def test_a_stored_reply_is_always_the_same_bytes() -> None:
    one = Reply(client="c", values={"b": 1, "a": 2}, arrays={"x": np.ones(2), "a": np.zeros(2)})
    other = Reply(client="c", values={"b": 1, "a": 2}, arrays={"a": np.zeros(2), "x": np.ones(2)})
    assert encode_reply(one) == encode_reply(other)


@pytest.mark.parametrize("change", CHANGES, ids="-".join)
def test_digest_changes_with_every_field(change: dict[str, Any]) -> None:
    assert replace(REQUEST, **change).digest != REQUEST.digest


def test_equal_content_has_an_equal_digest() -> None:
    matrix = np.arange(6.0).reshape(2, 3)
    one = replace(REQUEST, values={"a": 1, "b": [2]}, arrays={"m": matrix, "n": np.ones(1)})
    other = replace(REQUEST, values={"a": 1, "b": [2]}, arrays={"n": np.ones(1), "m": matrix.copy()})
    assert one.digest == other.digest


def test_digest_does_not_depend_on_how_an_array_lies_in_memory() -> None:
    matrix = np.arange(6.0).reshape(2, 3)
    spread = np.zeros((2, 6))[:, ::2]
    spread[:] = matrix
    digests = {
        replace(REQUEST, arrays={"m": array}).digest for array in (matrix, np.asfortranarray(matrix), spread)
    }
    assert len(digests) == 1


def test_names_and_contents_cannot_be_confused() -> None:
    """Moving bytes between neighbouring arrays is another message."""
    one = encode("c", {}, {"a": np.array([1, 2]), "b": np.array([3])})
    other = encode("c", {}, {"a": np.array([1]), "b": np.array([2, 3])})
    assert one != other


def _spoilt() -> list[bytes]:
    good = encode("client", {"a": 1}, {"x": np.arange(4.0)})
    no_arrays = b'{"identity":"c","values":{}}'
    return [
        b"",
        b"\x00" * 7,
        good[:-1],
        good + b"\x00",
        good[8:],
        struct.pack(">Q", 2**63) + good[8:],
        struct.pack(">Q", 3) + b"[1]",
        struct.pack(">Q", 4) + b"null",
        struct.pack(">Q", 3) + b"\xff\xfe\xfd",
        struct.pack(">Q", len(no_arrays)) + no_arrays,
        good.replace(b"NUMPY", b"MUNPY"),
    ]


@pytest.mark.parametrize("data", _spoilt())
def test_malformed_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(FederationError, match="well-formed"):
        decode(data)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_no_change_of_a_byte_raises_anything_else(data: st.DataObject) -> None:
    good = bytearray(encode("client", {"a": 1}, {"x": np.arange(4.0)}))
    place = data.draw(st.integers(0, len(good) - 1))
    good[place] = data.draw(st.integers(0, 255))
    with suppress(FederationError):
        decode(bytes(good))


def test_arrays_of_objects_are_never_encoded() -> None:
    with pytest.raises(ValueError, match="Object arrays"):
        encode("c", {}, {"a": np.array([{}], dtype=object)})


def _replies(*arrays: Any) -> list[Reply]:
    return [Reply(client=f"client-{n}", arrays={"sum": np.asarray(a)}) for n, a in enumerate(arrays)]


def test_counts_are_summed_exactly() -> None:
    big = 2**48
    total = sum_counts(_replies([big, 1], [big, 1], [-2, 0]), "sum")
    assert total.dtype == np.int64
    assert total.tolist() == [2 * big - 2, 2]


@pytest.mark.parametrize(
    "bad",
    [[1.0, 2.0], [2**60, 0], [-(2**60), 0], np.array([2**63, 0], np.uint64)],
    ids=["floats", "large", "small", "unsigned"],
)
def test_what_is_no_count_is_refused_and_its_sender_named(bad: Any) -> None:
    [good, wrong] = _replies([1, 2], bad)
    assert counts_of(good, "sum", (2,)).tolist() == [1, 2]
    with pytest.raises(FederationError, match="client-1"):
        counts_of(wrong, "sum", (2,))


@pytest.mark.parametrize(
    "bad",
    [
        np.array([1.0, np.nan]),
        np.array([1.0, np.inf]),
        np.array([1.0, 2.0, 3.0]),
        np.array([1.0]),
        np.array(["1", "2"]),
        np.array([True, False]),
        np.array([1 + 2j, 0]),
    ],
    ids=["nan", "infinite", "longer", "shorter", "text", "bool", "complex"],
)
def test_what_is_no_update_is_refused_and_its_sender_named(bad: np.ndarray[Any, Any]) -> None:
    with pytest.raises(FederationError, match="client-1"):
        array_of(_replies([1.0, 2.0], bad)[1], "sum", (2,))


def test_a_missing_array_is_refused() -> None:
    with pytest.raises(FederationError, match="'other' from client-0"):
        array_of(_replies([1.0])[0], "other")
