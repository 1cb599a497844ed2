"""What earlier runs released, for steps that compare with it."""

from __future__ import annotations

from pydantic import ValidationError

from fedpipe.data.spans import UNDATED, previous_span
from fedpipe.federation.terms import RunTerms
from fedpipe.pipeline import MetadataReader, Workspace
from fedpipe.privacy import PrivacyPlan
from server.artifacts import Statistics

TERMS = "terms.json"


def statistics_before(
    terms: RunTerms, metadata: MetadataReader, workspace: Workspace, *, pipeline: str
) -> Statistics | None:
    """Returns the newest Statistics of the pipeline that cover the span just before those of `terms`.

    They must have been released with at least the noise of this run's own counts, from the same
    kind of generator: what this run makes of them then costs their records no more than it
    promises its own. None if there are none such, or their files are gone. A later run over the
    same spans finds the same, unless the earlier span was counted anew.
    """
    first = terms.spans[0]
    if first == UNDATED:
        return None
    wanted, own = previous_span(first), {run.run_id for run in metadata.runs() if run.pipeline == pipeline}
    for record in reversed(metadata.artifacts_of_type("Statistics")):
        try:
            found = Statistics.model_validate_json((workspace.root / record.uri).read_bytes())
            made_under = RunTerms.model_validate_json(
                (workspace.runs_dir / record.run_id / TERMS).read_bytes()
            )
        except (OSError, ValidationError):
            continue
        if record.run_id in own and wanted in found.spans and _is_comparable(made_under, terms):
            return found
    return None


def _is_comparable(earlier: RunTerms, terms: RunTerms) -> bool:
    same_classes = earlier.data_schema.label.names == terms.data_schema.label.names
    return same_classes and _protects_as_well(earlier.plan, terms.plan)


def _protects_as_well(earlier: PrivacyPlan, plan: PrivacyPlan) -> bool:
    if not plan.private:
        return True
    if not earlier.private or earlier.randomness != plan.randomness:
        return False
    if (earlier.unit, earlier.max_records) != (plan.unit, plan.max_records):
        return False
    before, now = earlier.queries["labels"].mechanism, plan.queries["labels"].mechanism
    return before.kind == now.kind == "noisy_histograms" and before.noise_stddev >= now.noise_stddev
