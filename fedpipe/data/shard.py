"""One client's records: read, labelled, split and committed to, without leaving the client."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedpipe.data.cells import by_distinct, is_missing, normalize_cells, parse_labels, parse_spans
from fedpipe.data.readers import Names, Source, read_table
from fedpipe.data.schema import Schema
from fedpipe.data.spans import UNDATED
from fedpipe.files import canonical_json


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Shard:
    """A client's records as text, with the class, split and span of each. Its repr shows none of them.

    Attributes:
      frame: n rows, the schema's columns.
      labels: int64 (n,), the class number or -1 when unknown.
      is_eval: bool (n,), true where the record belongs to the evaluation split.
      spans: text (n,), the name of the span that the record lies in.
      users: int64 (n,), alike where records are one user's; None where the schema names no users.
    """

    frame: pd.DataFrame
    labels: NDArray[np.int64]
    is_eval: NDArray[np.bool_]
    spans: NDArray[np.str_]
    users: NDArray[np.int64] | None = None

    def select(self, rows: NDArray[np.bool_]) -> Shard:
        """Returns the shard of the records where `rows` is true."""
        return Shard(
            frame=self.frame[rows].reset_index(drop=True),
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
) -> Shard:
    """Returns the records in `sources`, one after the other; `names` as for `read_table`.

    The split of a record is a keyed hash of its user (or of its key, or of its whole content, when
    the schema has neither), in normalised text: it never changes with the file, its format, its order or
    other users' records, and equal records are never on both sides. Its span follows from its date cell
    alone.

    Raises:
      DataError: if the file does not fit the schema.
    """
    several = [sources] if isinstance(sources, (str, Path)) else sources
    tables = [read_table(source, schema, names) for source in several]
    frame = tables[0] if len(tables) == 1 else pd.concat(tables, ignore_index=True)
    users = _user_identities(frame, schema)
    whole = record_identities(frame, schema) if users is None else users
    return Shard(
        frame=frame,
        labels=parse_labels(frame[schema.label.name], schema.label, schema.missing_tokens),
        is_eval=_split(whole, eval_fraction, split_key),
        spans=_spans(frame, schema),
        users=None if users is None else _numbers(users),
    )


def commitment(shard: Shard, key: bytes, *, span: str = UNDATED) -> str:
    """Returns an HMAC-SHA256 of the records of `span`, whatever their order: equal only for equal records.

    Without `key` nothing about the records can be tested against it. The name of the span is part of
    what is digested: two spans without records have different commitments, and neither looks empty.
    """
    frame = shard.within([span]).frame
    names = sorted(frame.columns)
    records = zip(*(frame[name].tolist() for name in names), strict=True)
    rows = sorted(_digest(record) for record in records)
    content = b"commitment:" + _digest([span]) + _digest(names) + b"".join(rows)
    return hmac.new(key, content, hashlib.sha256).hexdigest()


def _spans(frame: pd.DataFrame, schema: Schema) -> NDArray[np.str_]:
    if schema.time is None:
        return np.full(len(frame), UNDATED)
    return parse_spans(frame[schema.time.column], schema.time, schema.missing_tokens)


def _digest(texts: Sequence[str]) -> bytes:
    return hashlib.sha256(canonical_json(texts).encode()).digest()


def _user_identities(frame: pd.DataFrame, schema: Schema) -> list[str] | None:
    return None if schema.user is None else _identity_cells(frame[schema.user], schema.missing_tokens)


def _numbers(texts: list[str]) -> NDArray[np.int64]:
    """Returns int64 (n,): a number for every text, the same for the same."""
    places: dict[str, int] = {}
    return np.array([places.setdefault(text, len(places)) for text in texts], dtype=np.int64)


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
