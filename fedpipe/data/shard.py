"""One client's records: read, labelled, split and committed to, without leaving the client.

They may be larger than memory: some tens of bytes are kept of each, beside its cells in a `Table`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedpipe.data.cells import by_distinct, is_missing, normalize_cells, parse_labels, parse_spans
from fedpipe.data.readers import Names, Source, read_chunks
from fedpipe.data.schema import Schema
from fedpipe.data.spans import UNDATED
from fedpipe.data.table import Table, TableWriter
from fedpipe.files import canonical_json
from fedpipe.scratch import Scratch

DIGEST = "S32"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Shard:
    """A client's records as text, with the class, split and span of each. Its repr shows none of them.

    Attributes:
      table: n rows, the schema's columns.
      labels: int64 (n,), the class number or -1 when unknown.
      is_eval: bool (n,), true where the record belongs to the evaluation split.
      spans: text (n,), the name of the span that the record lies in.
      users: int64 (n,), alike where records are one user's; None where the schema names no users.
    """

    table: Table
    labels: NDArray[np.int64]
    is_eval: NDArray[np.bool_]
    spans: NDArray[np.str_]
    users: NDArray[np.int64] | None = None

    @property
    def frame(self) -> pd.DataFrame:
        """All records, in memory: for few of them."""
        return self.table.to_frame()

    def select(self, rows: NDArray[np.bool_]) -> Shard:
        """Returns the shard of the records where `rows` is true."""
        return Shard(
            table=self.table.select(rows),
            labels=self.labels[rows],
            is_eval=self.is_eval[rows],
            spans=self.spans[rows],
            users=None if self.users is None else self.users[rows],
        )

    def within(self, spans: Sequence[str]) -> Shard:
        """Returns the shard of the records that lie in `spans`."""
        return self.select(np.isin(self.spans, list(spans)))

    @cached_property
    def labelled_train(self) -> Shard:
        """The records that may train."""
        return self.select((self.labels >= 0) & ~self.is_eval)

    @cached_property
    def labelled_eval(self) -> Shard:
        """The records that may evaluate."""
        return self.select((self.labels >= 0) & self.is_eval)

    @cached_property
    def train(self) -> Shard:
        """All records of the training split, labelled or not."""
        return self.select(~self.is_eval)


def open_shard(
    sources: Source | Sequence[Source],
    schema: Schema,
    *,
    eval_fraction: float,
    split_key: bytes,
    names: Names = (),
    scratch: Scratch | None = None,
) -> Shard:
    """Returns the records in `sources`, one after the other; `names` as for `read_table`.

    Those beyond what `scratch` allows in memory lie in its file.

    The split of a record is a keyed hash of its user (or of its key, or of its whole content, when
    the schema has neither), in normalised text: it never changes with the file, its format, its order or
    other users' records, and equal records are never on both sides. Its span follows from its date cell
    alone.

    Raises:
      DataError: if the file does not fit the schema.
    """
    several = [sources] if isinstance(sources, (str, Path)) else sources
    writer = TableWriter(scratch or Scratch())
    labels, sides, spans, users = [], [], [], []
    for frame in (frame for source in several for frame in read_chunks(source, schema, names)):
        writer.add(frame)
        labels.append(parse_labels(frame[schema.label.name], schema.label, schema.missing_tokens))
        spans.append(_spans(frame, schema))
        owners = _user_identities(frame, schema)
        identities = record_identities(frame, schema) if owners is None else owners
        sides.append(_split(identities, eval_fraction, split_key))
        users.append(_digests([owner] for owner in owners or ()))
    return Shard(
        table=writer.table(),
        labels=np.concatenate(labels),
        is_eval=np.concatenate(sides),
        spans=np.concatenate(spans),
        users=None if schema.user is None else _numbers(np.concatenate(users)),
    )


def commitment(shard: Shard, key: bytes, *, span: str = UNDATED) -> str:
    """Returns an HMAC-SHA256 of the records of `span`, whatever their order: equal only for equal records.

    Without `key` nothing about the records can be tested against it. The name of the span is part of
    what is digested: two spans without records have different commitments, and neither looks empty.
    """
    names = sorted(shard.table.columns)
    rows = [_digests(_records(frame, names)) for frame in shard.within([span]).table.parts()]
    content = b"commitment:" + _digest([span]) + _digest(names) + np.sort(np.concatenate(rows)).tobytes()
    return hmac.new(key, content, hashlib.sha256).hexdigest()


def _records(frame: pd.DataFrame, names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return zip(*(frame[name].tolist() for name in names), strict=True)


def _digests(records: Iterable[Sequence[str]]) -> NDArray[np.bytes_]:
    """Returns S32 (n,): a digest of each record's cells."""
    return np.frombuffer(b"".join(_digest(record) for record in records), dtype=DIGEST)


def _spans(frame: pd.DataFrame, schema: Schema) -> NDArray[np.str_]:
    if schema.time is None:
        return np.full(len(frame), UNDATED)
    return parse_spans(frame[schema.time.column], schema.time, schema.missing_tokens)


def _digest(texts: Sequence[str]) -> bytes:
    return hashlib.sha256(canonical_json(texts).encode()).digest()


def _user_identities(frame: pd.DataFrame, schema: Schema) -> list[str] | None:
    return None if schema.user is None else _identity_cells(frame[schema.user], schema.missing_tokens)


def _numbers(users: NDArray[np.bytes_]) -> NDArray[np.int64]:
    """Returns int64 (n,): a number for every digest, the same for the same, by their first appearance."""
    _, first, places = np.unique(users, return_index=True, return_inverse=True)
    ranks = np.empty(len(first), dtype=np.int64)
    ranks[np.argsort(first)] = np.arange(len(first))
    return ranks[places]


def record_identities(frame: pd.DataFrame, schema: Schema) -> list[str]:
    """Returns what stays the same of every record: its key, or all of it; empty for a missing key."""
    # Two identities that coincide only share a split: no separator needs to be safe.
    names = [schema.key] if schema.key else [*schema.columns, schema.label.name]
    texts = (_identity_cells(frame[name], schema.missing_tokens) for name in names)
    return ["\x1f".join(record) for record in zip(*texts, strict=True)]


def _identity_cells(cells: pd.Series[str], missing_tokens: tuple[str, ...]) -> list[str]:
    def fold(distinct: pd.Series[str]) -> NDArray[np.object_]:
        text = np.array(normalize_cells(distinct), dtype=object)
        return np.where(is_missing(distinct, missing_tokens), "", text)

    return list(by_distinct(cells, fold))


def _split(identities: list[str], eval_fraction: float, key: bytes) -> NDArray[np.bool_]:
    threshold = int(eval_fraction * 2**64)

    def falls_in_eval(identity: str) -> bool:
        digest = hmac.digest(key, b"split:" + identity.encode(), "sha256")
        return int.from_bytes(digest[:8], "big") < threshold

    return np.array([falls_in_eval(identity) for identity in identities], dtype=bool)
