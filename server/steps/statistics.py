"""Statistics: noisy counts of labels by span and of column health, from every client."""

from __future__ import annotations

from pathlib import Path

from fedpipe.data.statistics import HEALTH
from fedpipe.federation import Request
from fedpipe.federation.messages import sum_counts
from server.artifacts import Spans, Statistics
from server.steps.asking import Asker


def gather_statistics(spans: Spans, *, directory: Path, asker: Asker) -> dict[str, Statistics]:
    """Returns the Statistics. What is suspicious about them is for `validate` to say, at no cost."""
    schema, run_spans = asker.terms.data_schema, asker.terms.spans
    counted = asker.terms.plan.user is not None
    counts = {
        "labels": (len(run_spans), 2, schema.num_classes + 1),
        "columns": (len(schema.columns), len(HEALTH)),
        **({"users": (2,)} if counted else {}),
    }
    request = Request(run_id=asker.run_id, step="statistics")
    replies = asker.ask(request, among=spans.clients, counts=counts)
    health = sum_counts(replies, "columns")
    statistics = Statistics(
        spans=run_spans,
        label_counts={reply.client: reply.arrays["labels"].tolist() for reply in replies},
        column_health={name: row.tolist() for name, row in zip(schema.columns, health, strict=True)},
        user_counts={reply.client: reply.arrays["users"].tolist() for reply in replies} if counted else None,
        user_noise_stddev=asker.noise_stddev("users"),
        label_noise_stddev=asker.noise_stddev("labels"),
        column_noise_stddev=asker.noise_stddev("columns") * len(replies) ** 0.5,
    )
    return {"statistics": statistics}
