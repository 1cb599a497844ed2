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
    num_columns = len(profiled_columns(schema))
    replies = asker.ask(Request(run_id=asker.run_id, step="preprocess")) if num_columns else []
    transform = fit_transform(
        [sum_arrays(replies, f"column_{index}") for index in range(num_columns)],
        schema,
        asker.terms.preprocess,
        noise_stddev=asker.noise_stddev("features") * len(replies) ** 0.5,
        num_records=max(float(sum(statistics.class_counts("train"))), 1.0),
    )
    return {"transform": transform}
