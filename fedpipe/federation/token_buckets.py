"""Bounded rates: of each key as many takes a second as are allowed, after a burst of some seconds' worth."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable

MAX_BUCKETS = 10_000


class TokenBuckets:
    """One token bucket for each key that takes. A key that has rested for a burst is forgotten.

    Args:
      rate: takes a second.
      burst_seconds: how many seconds' worth may be taken at once; at least one take.
      clock: monotonic, in seconds.

    >>> buckets = TokenBuckets(1.0, 2.0, clock=lambda: 0.0)
    >>> [buckets.take("somebody") for _ in range(3)], buckets.take("another")
    ([True, True, False], True)
    """

    def __init__(
        self, rate: float, burst_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate, self._size, self._clock = rate, max(rate * burst_seconds, 1.0), clock
        self._left: dict[Hashable, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def take(self, key: Hashable) -> bool:
        """Returns whether `key` had a token left, and takes it."""
        now = self._clock()
        with self._lock:
            if len(self._left) >= MAX_BUCKETS and key not in self._left:
                self._forget(now)
            left = self._tokens(key, now)
            self._left[key] = (left - 1 if left >= 1 else left, now)
        return left >= 1

    def _tokens(self, key: Hashable, now: float) -> float:
        left, at = self._left.get(key, (self._size, now))
        return min(self._size, left + (now - at) * self._rate)

    def _forget(self, now: float) -> None:
        kept = {key: each for key, each in self._left.items() if self._tokens(key, now) < self._size}
        # More addresses at once than can be kept apart: better all start anew than that memory grows.
        self._left = kept if len(kept) < MAX_BUCKETS else {}
