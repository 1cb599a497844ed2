"""What earlier runs released, for steps that compare with it."""

from __future__ import annotations

from pydantic import ValidationError

from fedpipe.data.spans import UNDATED, previous_span
from fedpipe.federation.terms import RunTerms
from fedpipe.pipeline import MetadataStore, Workspace
from server.artifacts import Statistics


def statistics_before(
    terms: RunTerms, metadata: MetadataStore, workspace: Workspace, *, pipeline: str
) -> Statistics | None:
    """Returns the newest Statistics of the pipeline that cover the span just before those of `terms`.

    None if there are none, or their file is gone. A later run over the same spans finds the same,
    unless the earlier span was counted anew.
    """
    first = terms.spans[0]
    if first == UNDATED:
        return None
    wanted, own = previous_span(first), {run.run_id for run in metadata.runs() if run.pipeline == pipeline}
    for record in reversed(metadata.artifacts_of_type("Statistics")):
        try:
            found = Statistics.model_validate_json((workspace.root / record.uri).read_bytes())
        except (OSError, ValidationError):
            continue
        if record.run_id in own and wanted in found.spans and _same_classes(found, terms):
            return found
    return None


def _same_classes(statistics: Statistics, terms: RunTerms) -> bool:
    tables = next(iter(statistics.label_counts.values()), None)
    return tables is not None and len(tables[0][0]) == terms.data_schema.num_classes + 1
