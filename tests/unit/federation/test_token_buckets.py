from __future__ import annotations

import pytest

from fedpipe.federation import token_buckets
from fedpipe.federation.token_buckets import TokenBuckets


def test_a_burst_passes_and_then_the_rate() -> None:
    now = 0.0
    buckets = TokenBuckets(2.0, 5.0, clock=lambda: now)
    assert sum(buckets.take("key") for _ in range(100)) == 10

    now = 3.0
    assert sum(buckets.take("key") for _ in range(100)) == 6
    now = 1000.0
    assert sum(buckets.take("key") for _ in range(100)) == 10


def test_a_small_rate_still_lets_one_through() -> None:
    assert TokenBuckets(0.01, 5.0, clock=lambda: 0.0).take("key")


def test_memory_is_bounded_and_those_who_wait_keep_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_buckets, "MAX_BUCKETS", 10)
    now = 0.0
    buckets = TokenBuckets(1.0, 2.0, clock=lambda: now)
    for key in range(9):
        buckets.take(key)
    now = 1.5
    assert buckets.take("flooder")
    assert buckets.take("flooder")
    assert not buckets.take("flooder")

    assert buckets.take("new")
    assert not buckets.take("flooder")
    assert len(buckets._left) <= 10
