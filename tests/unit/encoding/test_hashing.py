"""SipHash-2-4 against its authors' test vector; the parity with TensorFlow is tested with serving."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpipe.encoding.hashing import HASH_KEY, hash_bucket, hash_buckets, siphash


def test_hash_matches_the_vector_of_the_paper() -> None:
    # Aumasson and Bernstein 2012, appendix A: key 00..0f, message 00..0e.
    assert siphash(bytes(range(15)), *HASH_KEY) == 0xA129CA6149BE45E5


def test_hash_of_nothing_matches_the_reference_code() -> None:
    assert siphash(b"", *HASH_KEY) == 0x726FDB47DD0E0E31


@pytest.mark.parametrize("num_buckets", [1, 2, 1000, 100_000])
def test_buckets_stay_in_range(num_buckets: int) -> None:
    buckets = hash_buckets([f"word {number}" for number in range(500)], num_buckets)
    assert buckets.min() >= 0
    assert buckets.max() < num_buckets


@given(st.lists(st.text(max_size=40)), st.integers(1, 10_000))
def test_many_texts_hash_as_each_alone(texts: list[str], num_buckets: int) -> None:
    expected = [siphash(text.encode(), *HASH_KEY) % num_buckets for text in texts]
    assert hash_buckets(texts, num_buckets).tolist() == expected
    assert [hash_bucket(text, num_buckets) for text in texts] == expected
