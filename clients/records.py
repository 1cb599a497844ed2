"""A node's records as runs read and train on them, kept between the requests of a run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clients.findings import log_findings
from clients.index import first_spans, record_digests
from fedpipe.data import Schema, Shard, Transform, commitment, open_shard
from fedpipe.data.inputs import Inputs, encode_compactly
from fedpipe.data.readers import Source
from fedpipe.data.shard import record_identities
from fedpipe.data.users import bound_contributions
from fedpipe.memory import give_back
from fedpipe.scratch import Scratch

MAX_CLIENTS = 16_384  # of a simulation in one process: each keeps its records in memory


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Encoded:
    """Labelled records as model inputs, int32 (n,) classes, (n,) names of spans and numbers of users, if any.

    Its repr shows none.
    """

    features: Inputs
    labels: NDArray[np.int32]
    spans: NDArray[np.str_]
    users: NDArray[np.int64] | None = None


def encode(shard: Shard, transform: Transform, scratch: Scratch) -> Encoded:
    """Returns `shard`'s records as model inputs; kept, in memory or in `scratch`, for the rounds of a run."""
    return _encode(shard, transform.model_dump_json(), scratch)


@lru_cache(maxsize=MAX_CLIENTS)
def read_shard(
    sources: tuple[Source, ...],
    _stamp: str,
    schema: str,
    eval_fraction: float,
    spans: tuple[str, ...],
    key: bytes,
    index: Path | None,
    names: tuple[tuple[str, str], ...],
    scratch: Scratch,
) -> Shard:
    """Returns the records of `sources` in `spans`, each in the span that `index` knows it by.

    What is odd about them goes to the owner's log. `names` are what the sources call columns.
    """
    parsed = Schema.model_validate_json(schema)
    shard = open_shard(
        sources, parsed, eval_fraction=eval_fraction, split_key=key, names=names, scratch=scratch
    )
    if index is not None:
        records = np.concatenate(
            [record_digests(record_identities(frame, parsed), key) for frame in shard.table.parts()]
        )
        shard = replace(shard, spans=first_spans(index, records, shard.spans))
    log_findings(shard, parsed, spans)
    return shard.within(spans)


@lru_cache(maxsize=MAX_CLIENTS)
def bounded(shard: Shard, schema: str, max_records: int, key: bytes) -> Shard:
    """Returns `max_records` at most of each user's records; which, the key decides."""
    parsed = Schema.model_validate_json(schema)
    return bound_contributions(shard, parsed, max_records=max_records, key=key)


@lru_cache(maxsize=MAX_CLIENTS)
def committed(shard: Shard, key: bytes, span: str) -> str:
    """Returns the keyed commitment to the records of `span`: a run asks when it is offered, and claimed."""
    return commitment(shard, key, span=span)


@lru_cache(maxsize=MAX_CLIENTS)
def _encode(shard: Shard, transform: str, scratch: Scratch) -> Encoded:
    features = encode_compactly(Transform.model_validate_json(transform), shard.table, scratch)
    labels = shard.labels.astype(np.int32)
    return Encoded(features=features, labels=labels, spans=shard.spans, users=shard.users)


def forget_records() -> None:
    """Frees all that is kept here, and returns it to the system."""
    for kept in (read_shard, bounded, committed, _encode):
        kept.cache_clear()
    give_back()
