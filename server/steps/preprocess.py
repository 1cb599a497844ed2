"""Preprocess: noisy value counts, and the Transform fitted to them."""

from __future__ import annotations

from pathlib import Path

from fedpipe.data import Transform
from fedpipe.data.profile import fit_transform, histogram_shapes
from fedpipe.federation import Request
from fedpipe.federation.messages import sum_counts
from server.artifacts import Spans, Statistics
from server.steps.asking import Asker


def preprocess(
    spans: Spans, statistics: Statistics, *, directory: Path, asker: Asker
) -> dict[str, Transform]:
    """Returns the Transform. Asks nobody when the schema declares all that it needs."""
    schema = asker.terms.data_schema
    counted = statistics.split_counts()
    shapes = histogram_shapes(schema, asker.terms.preprocess)
    columns = {f"column_{index}": shape for index, shape in enumerate(shapes)}
    request = Request(run_id=asker.run_id, step="preprocess")
    replies = asker.ask(request, among=counted, counts=columns) if columns else []
    transform = fit_transform(
        [sum_counts(replies, name) for name in columns],
        schema,
        asker.terms.preprocess,
        noise_stddev=asker.noise_stddev("features") * len(replies) ** 0.5,
        num_records=max(float(sum(sum(counted[reply.client][0]) for reply in replies)), 1.0),
    )
    return {"transform": transform}
