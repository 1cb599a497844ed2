"""The index of first spans: where a record was when its node first saw it, kept for ever.

A date can be amended. A record that then fell into another span would meet that span's budget, after
it has paid from its own. So a source with a key and a date has an index at its node: from a keyed
digest of the record's key (HMAC-SHA-256 under the node's key) to the name of the record's first
span. It is written durably whenever records are read, hence before any claim that reads them.

A lost or damaged index must not be begun afresh. Its identity, drawn when it is made, is part of what the
ledger holds about how records are divided; its contents have a digest. Undated records are not
in it: no run with a date column reads them.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedpipe.data.spans import UNDATED
from fedpipe.errors import LedgerError
from fedpipe.files import make_private_directory, sync_directory

FORMAT = "1"
BUSY_SECONDS = 30.0
DIGEST_BYTES = 16  # of HMAC-SHA-256: among a billion records two share one with probability 1e-21

# One row for each span: the digests of its records, one after the other.
_TABLES = """
CREATE TABLE info (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE first_spans (span TEXT PRIMARY KEY, records BLOB NOT NULL);
"""

Digests = NDArray[np.bytes_]
Names = NDArray[np.str_]


def record_digests(identities: Sequence[str], key: bytes) -> Digests:
    """Returns S16 (n,), what the index knows each record by; empty for a record without a key."""
    digests = (
        hmac.digest(key, b"first span:" + identity.encode(), "sha256")[:DIGEST_BYTES]
        if identity
        else bytes(DIGEST_BYTES)
        for identity in identities
    )
    return _as_digests(b"".join(digests))


def first_spans(path: Path, records: Digests, spans: Names) -> Names:
    """Returns the span in which each record was first seen, and durably notes those that are new.

    Rows that share a key share a span: the earliest, where the index has none yet.

    Args:
      path: of the index, made (mode 600) if there is none.
      records: (n,), from `record_digests`.
      spans: (n,), names of spans, those that the dates of now say.

    Raises:
      LedgerError: the index is damaged or cannot be written.
    """
    with _open(path) as connection:
        known = _Known.of(_read(connection))
        new = (known.find(records) < 0) & (records != b"") & (spans != UNDATED)
        if new.any():
            known = known.with_new(records[new], spans[new])
            _write(connection, known.by_span())
    places = known.find(records)
    return np.where(places < 0, spans, known.spans[places]) if len(known.spans) else spans


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class _Known:
    """Records in ascending order, and the first span of each."""

    records: Digests
    spans: Names

    @classmethod
    def of(cls, by_span: Mapping[str, bytes]) -> _Known:
        records = _as_digests(b"".join(by_span.values()))
        counts = [len(content) // DIGEST_BYTES for content in by_span.values()]
        order = np.argsort(records)
        return cls(records=records[order], spans=np.repeat(np.array([*by_span, ""])[:-1], counts)[order])

    def find(self, records: Digests) -> NDArray[np.int64]:
        """Returns int64 (n,): where each record is, -1 where it is not."""
        if not len(self.records):
            return np.full(len(records), -1)
        places = np.minimum(np.searchsorted(self.records, records), len(self.records) - 1)
        return np.where(self.records[places] == records, places, -1)

    def with_new(self, records: Digests, spans: Names) -> _Known:
        """Returns these records and others; of several spans of one record the earliest."""
        order = np.lexsort((spans, records))  # names of one window sort by time
        records, spans = records[order], spans[order]
        first = np.append(True, records[1:] != records[:-1])
        records = np.concatenate([self.records, records[first]])
        order = np.argsort(records)
        return _Known(records=records[order], spans=np.concatenate([self.spans, spans[first]])[order])

    def by_span(self) -> dict[str, bytes]:
        """Returns the records of each span, in order."""
        return {str(span): self.records[self.spans == span].tobytes() for span in np.unique(self.spans)}


def _as_digests(content: bytes) -> Digests:
    return np.frombuffer(content, dtype=f"S{DIGEST_BYTES}")


def index_identity(path: Path) -> str:
    """Returns the name that the index at `path` was given when it was made.

    Raises:
      LedgerError: there is none, or it is damaged.
    """
    if not path.exists():
        raise _damaged("none")
    with _open(path) as connection:
        return _get(connection, "identity")


def _read(connection: sqlite3.Connection) -> dict[str, bytes]:
    by_span = dict(connection.execute("SELECT span, records FROM first_spans ORDER BY span"))
    if _digest(by_span) != _get(connection, "digest"):
        raise _damaged("other contents than were written")
    return by_span


def _write(connection: sqlite3.Connection, by_span: Mapping[str, bytes]) -> None:
    connection.executemany("INSERT OR REPLACE INTO first_spans VALUES (?, ?)", by_span.items())
    _set(connection, "digest", _digest(by_span))


def _digest(by_span: Mapping[str, bytes]) -> str:
    """Returns SHA-256 over all spans, in order, with their records."""
    digest = hashlib.sha256()
    for span in sorted(by_span):
        digest.update(f"{span} {len(by_span[span])}\n".encode() + by_span[span])
    return digest.hexdigest()


def _get(connection: sqlite3.Connection, name: str) -> str:
    row = connection.execute("SELECT value FROM info WHERE key = ?", (name,)).fetchone()
    if row is None:
        raise _damaged(f"no {name}")
    return str(row[0])


def _set(connection: sqlite3.Connection, name: str, value: str) -> None:
    connection.execute("INSERT OR REPLACE INTO info VALUES (?, ?)", (name, value))


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    """Opens a transaction that alone writes to the index; it is durable when the block ends."""
    try:
        if not path.exists():
            _create(path)
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("BEGIN IMMEDIATE")
            if _get(connection, "format") != FORMAT:
                raise _damaged("another format")
            yield connection
            connection.execute("COMMIT")
    except (sqlite3.Error, OSError) as error:
        raise _damaged(str(error)) from error


def _create(path: Path) -> None:
    """Makes an empty index appear at `path` complete, unless another process was faster."""
    make_private_directory(path.parent)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as directory:
        draft = Path(directory) / path.name
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        with closing(sqlite3.connect(draft)) as connection, connection:
            connection.executescript(_TABLES)
            for name, value in (
                ("format", FORMAT),
                ("identity", secrets.token_hex(16)),
                ("digest", _digest({})),
            ):
                _set(connection, name, value)
        with suppress(FileExistsError):
            os.link(draft, path)
    sync_directory(path.parent)


def _damaged(found: str) -> LedgerError:
    return LedgerError(
        f"Expected the index of first spans as it was written, found {found}: restore it from a backup. "
        "With a new one, amended records could be charged to a second block."
    )
