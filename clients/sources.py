"""Which files a run reads: listed when the run first asks, so that files that arrive later wait for the next.

A source is a file, a folder, or a database's URL. What is new in a folder becomes part of the next run,
each record in the span of its own date.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from fedpipe.data.databases import is_database
from fedpipe.data.readers import Source, find_files
from fedpipe.errors import DataError
from fedpipe.files import digest_json, write_text

SUFFIX = ".sources"


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    stamp: str


class Listing(BaseModel):
    """The files and queries of a run, with the time and size that each file had."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    entries: tuple[_Entry, ...]

    @property
    def sources(self) -> tuple[Source, ...]:
        """Paths and URLs."""
        return tuple(each.source if is_database(each.source) else Path(each.source) for each in self.entries)

    @property
    def stamp(self) -> str:
        """Changes with any of the files; a query is read once for each listing."""
        return digest_json(self.model_dump(mode="json"))


def hold_listing(path: Path, sources: Sequence[str]) -> None:
    """Keeps in `path` what `sources` hold now, unless it was kept before.

    Raises:
      DataError: a source does not exist, or holds no data.
    """
    if path.exists():
        return
    found = [each if isinstance(each, str) else str(each.absolute()) for each in find_files(sources)]
    entries = tuple(_Entry(source=each, stamp=_stamp(each)) for each in found)
    write_text(path, Listing(name=path.stem, entries=entries).model_dump_json() + "\n")


def read_listing(source: Path) -> Listing:
    """Returns what to read for `source`: a data file, or a listing that `hold_listing` kept.

    Raises:
      DataError: the listing is damaged, or one of its files is no longer what it was.
    """
    if source.suffix != SUFFIX:
        entry = _Entry(source=str(source), stamp=_stamp(str(source)))
        return Listing(name=str(source), entries=(entry,))
    try:
        listing = Listing.model_validate_json(source.read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(
            "Expected the list of the run's files, found none: the run begins with ingest."
        ) from error
    for entry in listing.entries:
        if not _is_same(entry):
            raise DataError(
                f"Expected {entry.source} as it was when the run began, found it changed: start a new run."
            )
    return listing


def _is_same(entry: _Entry) -> bool:
    try:
        return _stamp(entry.source) == entry.stamp
    except OSError:
        return False


def _stamp(source: str) -> str:
    if is_database(source):
        return "query"
    status = os.stat(source)
    return f"{status.st_mtime_ns}-{status.st_size}"
