"""Validate: noisy counts of labels and column health, what is suspicious about them, and the answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from fedpipe.config import ValidateSettings
from fedpipe.data.statistics import HEALTH
from fedpipe.errors import DataError
from fedpipe.federation import Request
from fedpipe.federation.messages import array_of, sum_arrays
from server.artifacts import Anomalies, Anomaly, Spans, Statistics
from server.steps.asking import Asker
from server.steps.label_shift import Shift, client_shifts, make_balance, span_shifts

DEVIATIONS = 3.0  # how far beyond a threshold a noisy count must lie to be called suspicious


def validate(
    spans: Spans,
    *,
    directory: Path,
    asker: Asker,
    settings: ValidateSettings,
    reference: Statistics | None = None,
) -> dict[str, BaseModel]:
    """Returns Statistics, Anomalies and Balance.

    Args:
      spans: who takes part.
      directory: unused: there are no payloads.
      asker: the way to the clients.
      settings: what is suspicious, and what to do about it.
      reference: Statistics of an earlier run, to compare this run's first span with the one before it.

    Raises:
      DataError: the data cannot train a model, or is suspicious and the policy is to stop.
    """
    statistics = _count(spans, asker)
    anomalies = [*_find(statistics, asker, settings)]
    shifts = span_shifts(statistics, settings, reference)
    alerts = [*_shift_anomalies(shifts, asker)]
    _gate(anomalies, alerts, settings)
    notices = _client_anomalies(client_shifts(statistics, settings), asker)
    balance = make_balance(
        statistics, shifts, settings, num_classes=asker.terms.data_schema.num_classes, reference=reference
    )
    return {
        "statistics": statistics,
        "anomalies": Anomalies(found=(*anomalies, *alerts, *notices)),
        "balance": balance,
    }


def _count(spans: Spans, asker: Asker) -> Statistics:
    replies = asker.ask(Request(run_id=asker.run_id, step="validate"), among=spans.clients)
    schema, run_spans = asker.terms.data_schema, asker.terms.spans
    labels_shape = (len(run_spans), 2, schema.num_classes + 1)
    health = sum_arrays(replies, "columns", (len(schema.columns), len(HEALTH)))
    return Statistics(
        spans=run_spans,
        label_counts={reply.client: array_of(reply, "labels", labels_shape).tolist() for reply in replies},
        column_health={name: row.tolist() for name, row in zip(schema.columns, health, strict=True)},
        label_noise_stddev=asker.noise_stddev("labels"),
        column_noise_stddev=asker.noise_stddev("columns") * len(replies) ** 0.5,
    )


def _find(statistics: Statistics, asker: Asker, settings: ValidateSettings) -> Iterator[Anomaly]:
    yield from _label_anomalies(statistics, asker, settings)
    for name, counts in statistics.column_health.items():
        unusable = counts[HEALTH.index("missing")] + counts[HEALTH.index("malformed")]
        total = max(float(sum(counts)), 1.0)
        slack = DEVIATIONS * statistics.column_noise_stddev * np.sqrt(2)
        if unusable - slack > settings.max_unusable_share * total:
            yield Anomaly(
                column=name,
                problem=f"about {min(unusable / total, 1):.0%} of its cells are missing or malformed",
                severity="warning",
            )


def _label_anomalies(statistics: Statistics, asker: Asker, settings: ValidateSettings) -> Iterator[Anomaly]:
    label = asker.terms.data_schema.label
    *classes, unknown = statistics.class_counts("train")
    slack = DEVIATIONS * statistics.total_noise_stddev(1)
    labelled, total = sum(classes), max(float(sum(classes) + unknown), 1.0)
    if labelled + slack * len(classes) ** 0.5 < settings.min_records:
        yield Anomaly(
            column=label.name,
            problem=f"about {max(labelled, 0)} labelled training records in all, fewer than "
            f"validation.min_records={settings.min_records:g}",
            severity="error",
        )
    elif max(classes) + slack >= 0.999 * (labelled + slack) and sorted(classes)[-2] + slack < 1:
        yield Anomaly(
            column=label.name,
            problem="only one class seems to occur: see schema.label.classes",
            severity="error",
        )
    if unknown - slack > settings.max_unlabelled_share * total:
        yield Anomaly(
            column=label.name,
            problem=f"about {min(unknown / total, 1):.0%} of the records have no label",
            severity="warning",
        )


def _shift_anomalies(shifts: Sequence[Shift], asker: Asker) -> Iterator[Anomaly]:
    label = asker.terms.data_schema.label
    for shift in shifts:
        before, after = _percent(shift.share_before), _percent(shift.share_after)
        yield Anomaly(
            column=label.name,
            problem=f"the share of {label.names[shift.label]!r} went from about {before} in {shift.earlier} "
            f"to about {after} in {shift.later}",
            severity="warning",
        )


def _client_anomalies(shifts: Sequence[Shift], asker: Asker) -> Iterator[Anomaly]:
    label = asker.terms.data_schema.label
    for shift in shifts:
        yield Anomaly(
            column=label.name,
            problem=f"the share of {label.names[shift.label]!r} is about {_percent(shift.share_after)} at "
            f"{shift.later}, and about {_percent(shift.share_before)} at all other clients together",
            severity="notice",
        )


def _percent(share: float) -> str:
    return f"{min(max(share, 0.0), 1.0):.0%}"


def _gate(anomalies: Sequence[Anomaly], alerts: Sequence[Anomaly], settings: ValidateSettings) -> None:
    """Stops the run if the policies say so; what a shift of labels does is a setting of its own."""
    stopping = [
        anomaly for anomaly in anomalies if anomaly.severity == "error" or settings.on_anomaly == "stop"
    ]
    if settings.on_label_shift == "stop":
        stopping.extend(alerts)
    if stopping:
        first = stopping[0]
        raise DataError(
            f"Expected data fit for training, found in column {first.column!r}: {first.problem}. "
            "Nothing was spent on training. Mend the data or the schema, or change the validation settings."
        )
