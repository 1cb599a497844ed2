"""Label balance over time: noisy counts by span, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedpipe.learning.evaluation import Estimate
from fedpipe.learning.slices import share_estimate
from fedpipe.reports.evidence import DataCounts

Table = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class SpanRow:
    """A span's labelled records and the share of the last class among them.

    `drifted` means that the share's interval lies apart from that of all other spans together.
    """

    name: str
    num_records: int
    share: Estimate
    drifted: bool


def span_tables(table: Sequence[object]) -> Table:
    """Returns one client's counts, int64 (num_spans, 2, num_classes + 1); one span if none are told apart.

    >>> span_tables([[8, 2, 0], [4, 1, 0]]).shape, span_tables([[[8, 2, 0], [4, 1, 0]]] * 3).shape
    ((1, 2, 3), (3, 2, 3))
    """
    counts = np.asarray(table, dtype=np.int64)
    return counts if counts.ndim == 3 else counts[np.newaxis]


def all_spans(table: Sequence[object]) -> list[list[int]]:
    """Returns [train, eval] x [classes in order, unknown] of one client, summed over spans."""
    summed: list[list[int]] = span_tables(table).sum(axis=0).tolist()
    return summed


def num_spans(counts: DataCounts) -> int:
    """Returns how many spans are told apart."""
    return max((len(span_tables(table)) for table in counts.label_counts.values()), default=1)


def span_rows(counts: DataCounts) -> tuple[SpanRow, ...]:
    """Returns a row for every span, in order; none when there is one only, or no client answered."""
    tables = [span_tables(table) for table in counts.label_counts.values()]
    number = num_spans(counts)
    if number < 2:
        return ()
    summed = np.sum([np.pad(t, ((0, number - len(t)), (0, 0), (0, 0))) for t in tables], axis=0)
    by_class = summed.sum(axis=1)[:, :-1]  # (num_spans, num_classes), both splits
    variance = 2 * len(tables) * counts.label_noise_stddev**2
    names = _names(counts, number)
    return tuple(_row(names[index], by_class, index, variance) for index in range(number))


def _row(name: str, by_class: Table, index: int, variance: float) -> SpanRow:
    others = np.delete(by_class, index, axis=0)
    share = _share(by_class[index], variance, 1)
    rest = _share(others.sum(axis=0), variance, len(others))
    return SpanRow(
        name=name,
        num_records=int(by_class[index].sum()),
        share=share,
        drifted=share.lower > rest.upper or share.upper < rest.lower,
    )


def _share(classes: Table, variance: float, spans: int) -> Estimate:
    return share_estimate(
        float(classes[-1]),
        float(classes[:-1].sum()),
        hits_variance=spans * variance,
        misses_variance=spans * (len(classes) - 1) * variance,
    )


def _names(counts: DataCounts, number: int) -> Sequence[str]:
    known = len(counts.spans) == number
    return counts.spans if known else [f"span {index + 1}" for index in range(number)]
