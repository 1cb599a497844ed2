"""How a data store's records fall into blocks: fixed by the first run, for ever.

A record's budget belongs to the block that it falls into. If a later run could divide the
records in another way, by another key or date column, another window or another share of
evaluation records, then a record would meet a fresh budget in its new block.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from fedpipe.data import Schema
from fedpipe.errors import LedgerError
from fedpipe.federation.terms import RunTerms
from fedpipe.files import sync_directory


class TimeDivision(BaseModel):
    """What decides a record's span. `names` are those under which the date column is looked for, in order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...]
    window: str
    formats: tuple[str, ...]


class Division(BaseModel):
    """What decides a record's span and split, besides the node's own key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str | None
    eval_fraction: float | None = None
    missing_tokens: tuple[str, ...] = ()
    time: TimeDivision | None = None

    @classmethod
    def of(cls, terms: RunTerms) -> Division:
        """Returns how `terms` divide records; without key and time all are one block for ever."""
        schema = terms.data_schema
        time = _time_division(schema)
        if schema.key is None:
            return cls(key=None, time=time, missing_tokens=schema.missing_tokens if time else ())
        return cls(
            key=schema.key,
            eval_fraction=terms.eval_fraction,
            missing_tokens=schema.missing_tokens,
            time=time,
        )


def _time_division(schema: Schema) -> TimeDivision | None:
    time = schema.time
    if time is None:
        return None
    # A feature column has aliases of its own.
    names = (time.column, *schema.known()[time.column])
    return TimeDivision(names=names, window=time.window, formats=time.formats)


def hold_division(path: Path, wanted: Division) -> None:
    """Makes `path` hold `wanted` durably, or checks that it does.

    Raises:
      LedgerError: it holds another division, or is damaged.
    """
    _write_new(path, wanted.model_dump_json())
    try:
        held = Division.model_validate_json(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, ValidationError) as error:
        raise LedgerError(
            "Expected the node's record of how it divides its data, found it damaged: restore it."
        ) from error
    if held != wanted:
        raise LedgerError(
            f"Expected {held}, by which these records were first divided into budgets, found {wanted}: "
            "keep the first settings."
        )


def _write_new(path: Path, text: str) -> None:
    """Makes `path` hold `text` unless it exists; of two processes at once, one wins."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.link(name, path)
    except FileExistsError:
        return
    finally:
        os.unlink(name)
    sync_directory(path.parent)
