"""What a party holds for others: pairs of inputs until they are computed on, at most for a ticket's time."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

if TYPE_CHECKING:
    from .pairs import Pair

Ready = Callable[[str, int, float], None]


class UsedError(Exception):
    """The request id was used before."""


class FullError(Exception):
    """Too many requests are under way."""


@dataclass(eq=False)
class _Request:
    expires: float
    pair: Optional[Pair]
    answer: Future[Pair] = field(default_factory=Future)


class Inbox:
    """Requests under way, by id.

    Args:
      ready: is told (id, number of rows, expiry) of every request whose pair has come.
      max_requests: held at once.
    """

    def __init__(self, ready: Ready, max_requests: int) -> None:
        self._ready = ready
        self._max_requests = max_requests
        self._lock = threading.Lock()
        self._requests: Dict[str, _Request] = {}
        self._used: Dict[str, float] = {}  # an expired ticket is refused for its date: no need to remember it

    def submit(self, request_id: str, pair: Pair, expires: float) -> Future[Pair]:
        """Returns the output to come.

        Raises:
          UsedError: the id came before.
          FullError: there is no room.
        """
        request = _Request(expires, pair)
        with self._lock:
            if request_id in self._used:
                raise UsedError
            if len(self._requests) >= self._max_requests:
                raise FullError
            self._used[request_id] = expires
            self._requests[request_id] = request
        self._ready(request_id, len(pair[0]), expires)
        return request.answer

    def forget(self, request_id: str) -> None:
        """Drops a request, its shares and its output."""
        with self._lock:
            self._requests.pop(request_id, None)

    def take(self, wanted: Sequence[Tuple[str, int]], width: int, num_rows: int) -> Pair:
        """Returns the joined pairs of (id, rows), filled up with zeros, and drops them here.

        A request that is gone counts as zeros: its client has its refusal, and the rows of others stay put.
        """
        joined = np.zeros((2, num_rows, width), dtype=np.int64)
        start = 0
        for request_id, count in wanted:
            with self._lock:
                request = self._requests.get(request_id)
                pair = request.pair if request else None
                if request:
                    request.pair = None
            if pair is not None and pair[0].shape == (count, width):
                joined[:, start : start + count] = pair
            start += count
        return joined[0], joined[1]

    def answer(self, wanted: Sequence[Tuple[str, int]], output: Pair) -> None:
        """Hands out the rows of an output to those whose inputs `take` had joined."""
        start = 0
        for request_id, count in wanted:
            with self._lock:
                request = self._requests.pop(request_id, None)
            if request:
                rows = slice(start, start + count)
                request.answer.set_result((output[0][rows], output[1][rows]))
            start += count

    def purge(self, now: Optional[float] = None) -> List[str]:
        """Drops everything whose time is over; returns the ids of requests that were still there."""
        now = time.time() if now is None else now
        with self._lock:
            late = [key for key, request in self._requests.items() if request.expires <= now]
            for key in late:
                self._requests.pop(key).answer.cancel()
            for key in [key for key, expires in self._used.items() if expires <= now]:
                del self._used[key]
        return late

    def __len__(self) -> int:
        return len(self._requests)
