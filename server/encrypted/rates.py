"""How many rows a key may ask for: answers leak the model, so they are rationed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from server.prediction.errors import Code, ServingError


@dataclass(eq=False)
class Rates:
    """A token bucket for each name, full at first, with room for one minute's rows."""

    rows_per_minute: int
    _left: dict[str, tuple[float, float]] = field(default_factory=dict)

    def take(self, name: str, rows: int, now: float) -> None:
        """Takes `rows` at the time `now`, in seconds.

        Raises:
          ServingError: that is more than is left; it says when there is enough.
        """
        left, since = self._left.get(name, (float(self.rows_per_minute), now))
        left = min(self.rows_per_minute, left + (now - since) * self.rows_per_minute / 60)
        if rows > left:
            seconds = math.ceil((rows - left) * 60 / self.rows_per_minute)
            raise ServingError(
                Code.RESOURCE_EXHAUSTED,
                f"Expected at most {self.rows_per_minute} rows a minute of one key: "
                f"try again in {seconds} s.",
            )
        self._left[name] = (left - rows, now)
