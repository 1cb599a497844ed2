"""Validate: noisy counts of labels and column health, and what is suspicious about them."""

from __future__ import annotations

from collections.abc import Iterator
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

DEVIATIONS = 3.0  # how far beyond a threshold a noisy count must lie to be called suspicious


def validate(
    spans: Spans, *, directory: Path, asker: Asker, settings: ValidateSettings
) -> dict[str, BaseModel]:
    """Returns Statistics and Anomalies.

    Raises:
      DataError: the data cannot train a model, or is suspicious and the policy is to stop.
    """
    replies = asker.ask(Request(run_id=asker.run_id, step="validate"), among=spans.clients)
    schema = asker.terms.data_schema
    labels_shape = (2, schema.num_classes + 1)
    health = sum_arrays(replies, "columns", (len(schema.columns), len(HEALTH)))
    statistics = Statistics(
        label_counts={reply.client: array_of(reply, "labels", labels_shape).tolist() for reply in replies},
        column_health={name: row.tolist() for name, row in zip(schema.columns, health, strict=True)},
        label_noise_stddev=asker.noise_stddev("labels"),
        column_noise_stddev=asker.noise_stddev("columns") * len(replies) ** 0.5,
    )
    anomalies = Anomalies(found=tuple(_find(statistics, asker, settings)))
    _gate(anomalies, settings)
    return {"statistics": statistics, "anomalies": anomalies}


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


def _gate(anomalies: Anomalies, settings: ValidateSettings) -> None:
    stopping = [
        anomaly for anomaly in anomalies.found if anomaly.severity == "error" or settings.on_anomaly == "stop"
    ]
    if stopping:
        first = stopping[0]
        raise DataError(
            f"Expected data fit for training, found in column {first.column!r}: {first.problem}. "
            "Nothing was spent on training. Mend the data or the schema, or change the validation settings."
        )
