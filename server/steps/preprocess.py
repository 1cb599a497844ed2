"""Preprocess: noisy value counts, and the Transform fitted to them."""

from __future__ import annotations

from pathlib import Path

from fedpipe.data import Transform
from fedpipe.data.profile import fit_transform, profiled_columns
from fedpipe.federation import Request
from fedpipe.federation.messages import sum_arrays
from server.artifacts import Spans, Statistics
from server.steps.asking import Asker


def preprocess(
    spans: Spans, statistics: Statistics, *, directory: Path, asker: Asker
) -> dict[str, Transform]:
    """Returns the Transform. Asks nobody when the schema declares all that it needs."""
    schema = asker.terms.data_schema
    counted = statistics.split_counts()
    num_columns = len(profiled_columns(schema))
    request = Request(run_id=asker.run_id, step="preprocess")
    replies = asker.ask(request, among=counted) if num_columns else []
    transform = fit_transform(
        [sum_arrays(replies, f"column_{index}") for index in range(num_columns)],
        schema,
        asker.terms.preprocess,
        noise_stddev=asker.noise_stddev("features") * len(replies) ** 0.5,
        num_records=max(float(sum(sum(counted[reply.client][0]) for reply in replies)), 1.0),
    )
    return {"transform": transform}
