"""How many threads numeric libraries use: settled by the environment, before they are imported."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# How TensorFlow divides a sum among threads decides its last bits, and so does their number.
ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables for the block, and for the processes that it starts.

    >>> with environment({"FEDPIPE_EXAMPLE": "1"}):
    ...     os.environ["FEDPIPE_EXAMPLE"]
    '1'
    >>> "FEDPIPE_EXAMPLE" in os.environ
    False
    """
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
