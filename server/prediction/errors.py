"""Errors of the prediction server, with the codes that TensorFlow Serving answers."""

from __future__ import annotations

import enum

from fedpipe.errors import FedpipeError


class Code(enum.Enum):
    """A canonical gRPC code: its number, and the HTTP status that stands for it."""

    OK = (0, 200)
    CANCELLED = (1, 499)
    INVALID_ARGUMENT = (3, 400)
    DEADLINE_EXCEEDED = (4, 504)
    NOT_FOUND = (5, 404)
    PERMISSION_DENIED = (7, 403)
    RESOURCE_EXHAUSTED = (8, 429)
    FAILED_PRECONDITION = (9, 400)
    UNIMPLEMENTED = (12, 501)
    INTERNAL = (13, 500)
    UNAVAILABLE = (14, 503)
    UNAUTHENTICATED = (16, 401)

    @property
    def number(self) -> int:
        """The gRPC status code."""
        return self.value[0]

    @property
    def http_status(self) -> int:
        """The HTTP status."""
        return self.value[1]


class ServingError(FedpipeError):
    """A request that is answered by an error. The message goes to whoever asked and holds no value of theirs.

    Args:
      http_status: where it says more than the code's own, such as 413.
    """

    def __init__(self, code: Code, message: str, *, http_status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.http_status = http_status or code.http_status


def invalid(message: str) -> ServingError:
    """Returns the error for a request that can never succeed as it is."""
    return ServingError(Code.INVALID_ARGUMENT, message)


def unknown_model(name: str) -> ServingError:
    """Returns TensorFlow Serving's answer for a model of which nothing is known."""
    return ServingError(Code.NOT_FOUND, f"Could not find any versions of model {shorten(name)}")


def shorten(name: str, length: int = 100) -> str:
    r"""Returns a name that a client sent, fit for a message: one line of bounded length.

    >>> shorten("a" * 7, 5), shorten("b\n")
    ('aaaaa...', 'b\\n')
    """
    name = name.encode("unicode_escape").decode("ascii")
    return name if len(name) <= length else name[:length] + "..."
