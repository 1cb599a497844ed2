"""Where simulated data owners log what is for their eyes only: a file, not the operator's terminal."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedpipe.errors import FederationError

CLIENTS = "clients"


@contextmanager
def owners_log(path: Path) -> Iterator[None]:
    """Sends everything that the package `clients` logs to `path`, which only the owner may read.

    Raises:
      FederationError: as the block raised it, with a word on where to look.
    """
    size = path.stat().st_size if path.exists() else 0
    logger = logging.getLogger(CLIENTS)
    handler = _PrivateFile(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    except FederationError as error:
        if path.exists() and path.stat().st_size > size:
            raise FederationError(f"{error} (The simulated clients' log: {path})") from error
        raise
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
        handler.close()


class _PrivateFile(logging.FileHandler):
    def _open(self):  # type: ignore[no-untyped-def]  # the handler's own type is private
        descriptor = os.open(self.baseFilename, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        return os.fdopen(descriptor, "a", encoding=self.encoding)
