"""One JSON object a line: what daemons write, for people and for machines."""

from __future__ import annotations

import datetime as dt
import json
import logging
import logging.handlers
import sys
from pathlib import Path

MAX_LOG_BYTES = 20 << 20
KEPT_LOGS = 4
STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JsonLines(logging.Formatter):
    """Formats a record with its time, level, name, text and whatever `extra` was given."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns one line."""
        at = dt.datetime.fromtimestamp(record.created, dt.timezone.utc)
        line: dict[str, object] = {
            "time": at.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in STANDARD}
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = type(record.exc_info[1]).__name__
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def log_to(path: Path, *, echo: bool = True) -> None:
    """Sends all logs to `path`, which is readable by its owner only and kept from growing; and to stderr."""
    path.touch(mode=0o600, exist_ok=True)
    handlers: list[logging.Handler] = [
        logging.handlers.RotatingFileHandler(path, maxBytes=MAX_LOG_BYTES, backupCount=KEPT_LOGS)
    ]
    if echo:
        handlers.append(logging.StreamHandler(sys.stderr))
    root = logging.getLogger()
    for handler in handlers:
        handler.setFormatter(JsonLines())
    root.handlers = handlers
    root.setLevel(logging.INFO)
    logging.raiseExceptions = False  # with a full disk, each line would be a traceback on stderr
    # Flower tells of every poll, and prints with colours.
    flower = logging.getLogger("flwr")
    flower.handlers.clear()
    flower.propagate = True
    flower.setLevel(logging.WARNING)
    logging.getLogger("absl").setLevel(logging.WARNING)  # ML Metadata tells of every opening
