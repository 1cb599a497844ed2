"""Members of JSON from the other side, which may be anything until they were looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

from fedpipe.errors import EncryptedError

Value = TypeVar("Value")


def member(content: object, name: str, kind: type[Value]) -> Value:
    """Returns the member `name`, which must be of that type.

    Raises:
      EncryptedError: there is none.
    """
    value = content.get(name) if isinstance(content, Mapping) else None
    if not _is(value, kind):
        raise EncryptedError(
            f"Expected {name} ({kind.__name__}) from the service, found none: check its address."
        )
    return value  # type: ignore[return-value]


def members(content: object, name: str, kind: type[Value]) -> tuple[Value, ...]:
    """Returns the list `name`, whose items must be of that type."""
    items = member(content, name, list)
    if not all(_is(item, kind) for item in items):
        raise EncryptedError(
            f"Expected only {kind.__name__} in {name} from the service, found others: update fedpipe."
        )
    return tuple(items)


def number(content: object, name: str) -> float:
    """Returns the finite number `name`."""
    value = content.get(name) if isinstance(content, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise EncryptedError(f"Expected a finite {name} from the service, found none: update fedpipe.")
    return float(value)


def _is(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))
