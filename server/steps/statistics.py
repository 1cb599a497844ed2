"""Statistics: noisy counts of labels by span and of column health, from every client."""

from __future__ import annotations

from pathlib import Path

from fedpipe.data.statistics import HEALTH
from fedpipe.federation import Request
from fedpipe.federation.messages import array_of, sum_arrays
from server.artifacts import Spans, Statistics
from server.steps.asking import Asker


def gather_statistics(spans: Spans, *, directory: Path, asker: Asker) -> dict[str, Statistics]:
    """Returns the Statistics. What is suspicious about them is for `validate` to say, at no cost."""
    replies = asker.ask(Request(run_id=asker.run_id, step="statistics"), among=spans.clients)
    schema, run_spans = asker.terms.data_schema, asker.terms.spans
    labels_shape = (len(run_spans), 2, schema.num_classes + 1)
    health = sum_arrays(replies, "columns", (len(schema.columns), len(HEALTH)))
    counted = asker.terms.plan.user is not None
    statistics = Statistics(
        spans=run_spans,
        label_counts={reply.client: array_of(reply, "labels", labels_shape).tolist() for reply in replies},
        column_health={name: row.tolist() for name, row in zip(schema.columns, health, strict=True)},
        user_counts={reply.client: array_of(reply, "users", (2,)).tolist() for reply in replies}
        if counted
        else None,
        user_noise_stddev=asker.noise_stddev("users"),
        label_noise_stddev=asker.noise_stddev("labels"),
        column_noise_stddev=asker.noise_stddev("columns") * len(replies) ** 0.5,
    )
    return {"statistics": statistics}
