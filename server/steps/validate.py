"""Validate: what is suspicious about the noisy counts, and the answer. It asks nobody and costs nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from fedpipe.config import ValidateSettings
from fedpipe.data import Schema
from fedpipe.data.statistics import HEALTH
from fedpipe.errors import DataError
from server.artifacts import Anomalies, Anomaly, Statistics
from server.steps.label_shift import Shift, client_shifts, make_balance, span_shifts

DEVIATIONS = 3.0  # how far beyond a threshold a noisy count must lie to be called suspicious


def validate(
    statistics: Statistics,
    *,
    directory: Path,
    schema: Schema,
    settings: ValidateSettings,
    reference: Statistics | None = None,
) -> dict[str, BaseModel]:
    """Returns Anomalies and Balance, from released counts alone: nobody is asked.

    Args:
      statistics: of this run.
      directory: unused: there are no payloads.
      schema: of the records.
      settings: what is suspicious, and what to do about it.
      reference: Statistics of an earlier run, to compare this run's first span with the one before it.

    Raises:
      DataError: the data cannot train a model, or is suspicious and the policy is to stop.
    """
    anomalies = [*_find(statistics, schema, settings)]
    shifts = span_shifts(statistics, settings, reference)
    alerts = [*_shift_anomalies(shifts, schema)]
    _gate(anomalies, alerts, settings)
    notices = _client_anomalies(client_shifts(statistics, settings), schema)
    found = _ranked(anomalies, settings.on_anomaly), _ranked(alerts, settings.on_label_shift)
    balance = make_balance(statistics, shifts, settings, num_classes=schema.num_classes, reference=reference)
    return {"anomalies": Anomalies(found=(*found[0], *found[1], *notices)), "balance": balance}


def _find(statistics: Statistics, schema: Schema, settings: ValidateSettings) -> Iterator[Anomaly]:
    yield from _label_anomalies(statistics, schema, settings)
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


def _label_anomalies(statistics: Statistics, schema: Schema, settings: ValidateSettings) -> Iterator[Anomaly]:
    label = schema.label
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


def _shift_anomalies(shifts: Sequence[Shift], schema: Schema) -> Iterator[Anomaly]:
    label = schema.label
    for shift in shifts:
        before, after = _percent(shift.share_before), _percent(shift.share_after)
        yield Anomaly(
            column=label.name,
            problem=f"the share of {label.names[shift.label]!r} went from about {before} in {shift.earlier} "
            f"to about {after} in {shift.later}",
            severity="warning",
        )


def _client_anomalies(shifts: Sequence[Shift], schema: Schema) -> Iterator[Anomaly]:
    label = schema.label
    for shift in shifts:
        yield Anomaly(
            column=label.name,
            problem=f"the share of {label.names[shift.label]!r} is about {_percent(shift.share_after)} at "
            f"{shift.later}, and about {_percent(shift.share_before)} at all other clients together",
            severity="notice",
        )


def _ranked(anomalies: Sequence[Anomaly], policy: str) -> list[Anomaly]:
    """Returns `anomalies` as the policy ranks them: what is ignored is noted down, and troubles nobody."""
    rank = {"severity": "notice"} if policy == "ignore" else {}
    return [anomaly.model_copy(update=rank) for anomaly in anomalies]


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
