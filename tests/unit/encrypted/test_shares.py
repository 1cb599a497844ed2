"""Shares hide what they share, join to it again, and overflow nowhere unseen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpipe.encrypted import shares
from fedpipe.encrypted.party.pairs import MAGIC
from fedpipe.encrypted.shares import decode_fixed, encode_fixed, reconstruct, share
from fedpipe.encrypted.wire import decode_pair, encode_pair, encoded_bytes
from fedpipe.errors import EncryptedError


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_shared_numbers_come_back(numbers: list[float]) -> None:
    words = encode_fixed(numbers, max_magnitude=1e6)
    np.testing.assert_allclose(decode_fixed(reconstruct(share(words))), numbers, atol=2**-17)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_any_words_come_back_exactly(numbers: list[int]) -> None:
    words = np.array(numbers, dtype=np.int64)
    assert reconstruct(share(words)).tolist() == numbers


def test_parties_hold_neighboring_shares() -> None:
    pairs = share(encode_fixed(np.arange(6.0).reshape(2, 3), max_magnitude=10))
    for party in range(3):
        assert np.array_equal(pairs[party][1], pairs[(party + 1) % 3][0])


def test_no_party_can_tell_what_is_shared() -> None:
    """Every bit of every pair is a fair coin, whatever the words are: 20,000 tosses within six sigma."""
    words = np.full((20_000, 1), 1 << 16, dtype=np.int64)
    for pair in share(words):
        for held in (*pair, pair[0] + pair[1], pair[0] ^ pair[1]):
            bits = np.unpackbits(held.view(np.uint8).reshape(-1, 8), axis=1)
            assert np.abs(bits.mean(axis=0) - 0.5).max() < 6 * 0.5 / np.sqrt(20_000)


def test_test_of_hiding_finds_a_share_that_does_not_hide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "_random_words", lambda shape: np.zeros(shape, dtype=np.int64))
    with pytest.raises(AssertionError):
        test_no_party_can_tell_what_is_shared()


def test_same_row_is_shared_afresh_each_time() -> None:
    words = np.zeros((1, 4), dtype=np.int64)
    found = {pair[0].tobytes() for _ in range(10) for pair in share(words)}
    assert len(found) == 30


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 4.001, -1e300])
def test_number_beyond_the_limit_is_refused_and_not_repeated(value: float) -> None:
    with pytest.raises(EncryptedError, match="row 2, input 3") as refused:
        encode_fixed([[0.0, 1, 2], [3, 4, value]], max_magnitude=4)
    assert str(value) not in str(refused.value)


@pytest.mark.parametrize("place", [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)])
def test_share_that_one_party_changes_is_found(place: tuple[int, int]) -> None:
    pairs: Any = [tuple(held.copy() for held in pair) for pair in share(np.zeros((2, 2), dtype=np.int64))]
    pairs[place[0]][place[1]][1, 1] += 1
    with pytest.raises(EncryptedError, match="hold the same share"):
        reconstruct(pairs)


def test_pair_survives_the_wire() -> None:
    pair = (np.arange(6).reshape(2, 3), -np.arange(6).reshape(2, 3))
    body = encode_pair(pair)
    assert len(body) == encoded_bytes((2, 3)) == 4 + 4 + 8 + 2 * 8 * 6
    assert np.array_equal(decode_pair(body, (2, 3)), pair)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        MAGIC,
        encode_pair((np.zeros((2, 3)), np.zeros((2, 3))))[:-1],
        encode_pair((np.zeros((2, 3)), np.zeros((2, 3)))) + b"\0",
        encode_pair((np.zeros((3, 2)), np.zeros((3, 2)))),
        encode_pair((np.zeros(6), np.zeros(6))) + bytes(4),
        b"FPS2" + encode_pair((np.zeros((2, 3)), np.zeros((2, 3))))[4:],
    ],
)
def test_body_of_another_form_is_refused(body: bytes) -> None:
    with pytest.raises(EncryptedError, match="shape \\(2, 3\\)"):
        decode_pair(body, (2, 3))
