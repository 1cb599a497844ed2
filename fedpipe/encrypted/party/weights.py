"""The model's weights, of which a party keeps its two shares until the graph holds them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Dict, List

if TYPE_CHECKING:
    from .pairs import Pair


class Weights:
    """Pairs by number. Each is brought once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pairs: Dict[int, Pair] = {}
        self._sealed = False

    def put(self, number: int, pair: Pair) -> bool:
        """Keeps a pair; returns whether it was new and still wanted."""
        with self._lock:
            if self._sealed or number in self._pairs:
                return False
            self._pairs[number] = pair
        return True

    def take(self, count: int) -> List[Pair]:
        """Returns all pairs in order and takes no more.

        Raises:
          KeyError: one is missing.
        """
        with self._lock:
            found = [self._pairs[number] for number in range(count)]
            self._pairs.clear()
            self._sealed = True
        return found
