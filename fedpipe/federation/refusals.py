"""What a daemon says of those whom it refuses: a line a minute for each address and reason, no more."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

LINE_SECONDS = 60.0
MAX_REMEMBERED = 1000

logger = logging.getLogger("fedpipe.superlink")


class Refusals:
    """Logs refusals so that no flood of them can fill the disk, and has each one counted.

    Args:
      count: is given the kind of every refusal: a gRPC status in small letters, or `connection`.
      clock: monotonic, in seconds.
    """

    def __init__(self, count: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._count, self._clock = count, clock
        self._said: dict[tuple[str, str], float] = {}
        self._unsaid = 0
        self._lock = threading.Lock()

    def tell(self, reason: str, peer: str, kind: str = "connection") -> None:
        """Counts a refusal of `peer`, HOST:PORT, and logs it unless the same was just said of that host."""
        self._count(kind)
        said, now = (peer.rpartition(":")[0], reason), self._clock()
        with self._lock:
            if now < self._said.get(said, -LINE_SECONDS) + LINE_SECONDS or not self._has_room(now):
                self._unsaid += 1
                return
            self._said[said] = now
            unsaid, self._unsaid = self._unsaid, 0
        more = {"unsaid": unsaid} if unsaid else {}
        logger.warning("Refused: %s.", reason, extra={"peer": peer, **more})

    def _has_room(self, now: float) -> bool:
        """Returns whether a further line can be remembered: of more addresses a minute nothing is said."""
        if len(self._said) >= MAX_REMEMBERED:
            self._said = {key: at for key, at in self._said.items() if now < at + LINE_SECONDS}
        return len(self._said) < MAX_REMEMBERED
