"""What a node found in its records: exact counts, for its owner's eyes only. None of it is ever sent."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from fedpipe.data import Schema, Shard
from fedpipe.data.spans import UNDATED
from fedpipe.data.statistics import HEALTH, column_health

DOUBTFUL_SHARE = 0.5  # of records or cells that cannot be used: most likely the schema means something else

logger = logging.getLogger("fedpipe.node")


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Numbers of records, and what in them deserves their owner's attention."""

    records: int
    undated: int
    in_spans: int
    labelled: int
    doubts: tuple[str, ...]


def find_out(shard: Shard, schema: Schema, spans: Sequence[str]) -> Findings:
    """Returns what the records of `shard`, of all spans, are for a run on `spans`."""
    used = shard.within(spans)
    return Findings(
        records=len(shard.spans),
        undated=int((shard.spans == UNDATED).sum()) if schema.time else 0,
        in_spans=len(used.spans),
        labelled=int((used.labels >= 0).sum()),
        doubts=(*_doubts_of_spans(shard, schema, spans), *_doubts_of_cells(used, schema)),
    )


def log_findings(shard: Shard, schema: Schema, spans: Sequence[str]) -> None:
    """Tells the owner, in her node's log, what a run finds in her records."""
    if not logger.isEnabledFor(logging.INFO):
        return  # as in a simulation, which knows everything anyway
    found = asdict(find_out(shard, schema, spans))
    doubts = found.pop("doubts")
    logger.info("Read the records for a run.", extra=found)
    for doubt in doubts:
        logger.warning("%s", doubt)


def _doubts_of_spans(shard: Shard, schema: Schema, spans: Sequence[str]) -> Iterator[str]:
    total, undated = len(shard.spans), int((shard.spans == UNDATED).sum())
    if schema.time and undated > DOUBTFUL_SHARE * total:
        formats = ", ".join(schema.time.formats)
        yield (
            f"Expected dates as schema.time.formats says ({formats}) in column {schema.time.column!r}, found "
            f"{undated} of {total} records without one: they take no part. Export other dates, or ask the "
            "operator to add the format."
        )
    elif not np.isin(shard.spans, list(spans)).any():
        yield (
            f"Expected records in the run's spans, {spans[0]} to {spans[-1]}, found none among {total}: the "
            "node takes part with nothing but noise."
        )


def _doubts_of_cells(used: Shard, schema: Schema) -> Iterator[str]:
    total = len(used.labels)
    unlabelled = int((used.labels < 0).sum())
    if unlabelled > DOUBTFUL_SHARE * total:
        yield (
            f"Expected {' or '.join(map(repr, schema.label.names))} in column {schema.label.name!r}, found "
            f"neither these nor their known spellings in {unlabelled} of {total} records: they do not train."
        )
    for name, counts in zip(schema.columns, column_health(used, schema), strict=True):
        worst = 1 + int(np.argmax(counts[1:]))
        optional = schema.columns[name].optional and HEALTH[worst] == "missing"
        if counts[worst] > DOUBTFUL_SHARE * total and not optional:
            yield (
                f"Expected usable cells in column {name!r}, found {counts[worst]} of {total} "
                f"{HEALTH[worst].replace('_', ' ')}: compare it with the schema."
            )
