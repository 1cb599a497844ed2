"""What a run's artifacts say of a week: charged or public, all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel

from fedpipe.learning.slices import share_estimate
from fedpipe.pipeline import MetadataStore, Workspace
from fedpipe.reports.spans import span_tables
from server.artifacts import Anomalies, ModelVersion, Spans, Statistics
from server.claims import read_claim

Found = TypeVar("Found", bound=BaseModel)


def known_figures(workspace: Workspace, run_ids: Sequence[str], stopped_by: str) -> dict[str, Any]:
    """Returns the figures of an `Attempt` that its last run has artifacts for.

    A run that was stopped made no list of anomalies: what stopped it, `stopped_by`, stands for them.
    """
    metadata = MetadataStore.open(workspace.metadata_path)
    uris = {record.name: record.uri for record in metadata.artifacts(run_ids[-1])}
    figures = _admission(workspace, run_ids, _load(workspace, uris, "spans", Spans))
    figures |= _counts(_load(workspace, uris, "statistics", Statistics))
    anomalies = _load(workspace, uris, "anomalies", Anomalies)
    alerts = [each.problem for each in anomalies.found if each.severity != "notice"] if anomalies else []
    figures["alerts"] = (*alerts, stopped_by) if stopped_by else tuple(alerts)
    version = _load(workspace, uris, "model_version", ModelVersion)
    if version is not None:
        figures |= {"model_version": f"{version.name}:{version.version}", "auc": version.metrics.auc}
    return figures


def _admission(workspace: Workspace, run_ids: Sequence[str], spans: Spans | None) -> dict[str, Any]:
    claims = [read_claim(workspace.runs_dir / run_id) for run_id in run_ids]
    claim = next((claim for claim in claims if claim), None)
    refusals = (spans.refusals if spans else {}) | (claim.refusals if claim else {})
    offered = spans.clients if spans and claim else None
    accepted = tuple(client for client in offered if client not in refusals) if offered is not None else None
    return {"accepted": accepted, "refusals": refusals}


def _counts(statistics: Statistics | None) -> dict[str, Any]:
    """Returns the noisy size of the newest span over all clients and splits, and the share of positives."""
    if statistics is None:
        return {}
    tables = np.sum([span_tables(table)[-1] for table in statistics.label_counts.values()], axis=0)
    negative, positive = tables.sum(axis=0)[:2].tolist()
    variance = 2 * len(statistics.label_counts) * statistics.label_noise_stddev**2
    share = share_estimate(positive, negative, hits_variance=variance, misses_variance=variance)
    return {"newest_records": negative + positive, "positive_share": share}


def _load(workspace: Workspace, uris: Mapping[str, str], name: str, kind: type[Found]) -> Found | None:
    return kind.model_validate_json((workspace.root / uris[name]).read_bytes()) if name in uris else None
