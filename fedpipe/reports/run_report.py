"""A run's report for risk officers and engineers: one HTML file, no scripts, nothing from elsewhere."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from jinja2 import Environment

from fedpipe.ledger.certificate import PrivacyStatement
from fedpipe.reports import charts, comparison, costs, learning, quality, spans, tables, wording
from fedpipe.reports.evidence import RunEvidence
from fedpipe.reports.summary import RunSummary
from fedpipe.reports.templates import make_environment

TEMPLATE = "run_report.html.j2"
_SAID_BY_BANNERS = ("NOT PRIVATE", "Seeded randomness", "By its private estimate")
_NEIGHBOURS = {"add_or_remove_one": "adding or removing"}


def render_report(summary: RunSummary, evidence: RunEvidence) -> str:
    """Returns the report as one HTML page that asks for nothing else.

    Everything on it is charged or public, except for the section that is there when
    `summary.simulation_only` is. Text from clients is escaped.
    """
    schema, counts = evidence.schema, evidence.counts
    settings = {name: value for name, value in evidence.settings.items() if name != "description"}
    context = {
        "summary": summary,
        "evidence": evidence,
        "certificate": evidence.certificate,
        "label_name": schema.label.name,
        "positive": schema.label.names[-1],
        "num_classes": schema.num_classes,
        "warnings": _warnings(summary),
        "total_seconds": math.fsum(summary.timings_seconds.values()),
        "counts": counts,
        "trail": tables.trail_rows(evidence),
        "settings": tables.setting_groups(settings),
        "max_clients": tables.MAX_CLIENTS,
    }
    page = _environment().get_template(TEMPLATE)
    return page.render(context | _privacy(evidence) | _quality(summary, evidence) | _data(evidence))


def guarantee(privacy: PrivacyStatement) -> str:
    """Returns the promise of a private run in one sentence: unit, neighbours, cost, scope and limits."""
    if privacy.epsilon is None or privacy.delta is None:
        return "Nothing is promised."
    unit, equals = privacy.unit, f"{wording.NO_BREAK}={wording.NO_BREAK}"
    epsilon, delta = wording.round_up(privacy.epsilon), wording.power_of_ten(privacy.delta)
    return (
        f"{_neighbours(privacy).capitalize()} any one {unit} of a client changes what this run releases, "
        f"over all its steps together, by no more than differential privacy with epsilon{equals}{epsilon} "
        f"and delta{equals}{delta} ({wording.one_in(privacy.delta)}) allows; that a client takes part is "
        f"not hidden, and a person with {unit}s at several clients is outside this promise."
    )


@lru_cache(maxsize=1)
def _environment() -> Environment:
    return make_environment(
        wording.count,
        wording.duration,
        wording.figure,
        wording.percent,
        wording.plural,
        wording.power_of_ten,
        wording.round_up,
    )


def _warnings(summary: RunSummary) -> list[str]:
    """Returns what the page does not say elsewhere, without hints at files of this machine."""
    return [
        warning
        for warning in summary.warnings
        if not warning.startswith(_SAID_BY_BANNERS) and summary.paths.workspace not in warning
    ]


def _privacy(evidence: RunEvidence) -> dict[str, Any]:
    certificate, privacy = evidence.certificate, evidence.certificate.privacy
    blocks = costs.block_reports(certificate)
    return {
        "privacy": privacy,
        "private": privacy.status == "private",
        "state": _state(privacy),
        "guarantee": guarantee(privacy),
        "neighbours": f"{_neighbours(privacy)} one {privacy.unit}",
        "blocks": blocks,
        "detection": max((block.detection for block in blocks), default=1.0),
        "false_alarms": costs.FALSE_ALARMS,
        "dropouts": costs.dropout_words(certificate),
        "vouched": costs.vouching_words(certificate),
        "budgets": comparison.budget_rows(evidence.budgets),
        "scarcest": comparison.scarcest(evidence.budgets),
        "learning": learning.learning_report(evidence.rounds, certificate),
        "chart_size": (charts.CHART_WIDTH, charts.CHART_HEIGHT),
    }


def _state(privacy: PrivacyStatement) -> str:
    if privacy.status != "private":
        return "not private"
    return "seeded" if privacy.randomness.startswith("seeded") else "private"


def _neighbours(privacy: PrivacyStatement) -> str:
    return _NEIGHBOURS.get(privacy.neighboring_relation, privacy.neighboring_relation.replace("_", " "))


def _quality(summary: RunSummary, evidence: RunEvidence) -> dict[str, Any]:
    metrics, known = summary.metrics, summary.simulation_only
    classes = tables.class_rows(evidence.counts, evidence.schema.label.names)[:-1]
    slices = comparison.slice_reports(evidence, metrics.auc)
    return {
        "auc": metrics.auc,
        "metrics": quality.metric_rows(metrics, [row.held_out for row in classes]),
        "roc": quality.roc_points(evidence.curves),
        "dots": quality.calibration_dots(evidence.curves),
        "curve_size": quality.CURVE_SIZE,
        "slices": slices,
        "num_slices": sum(len(group.rows) for group in slices),
        "num_flagged": sum(group.num_flagged for group in slices),
        "versions": comparison.version_rows(evidence),
        "simulated": quality.simulated_rows(metrics, known) if known else (),
    }


def _data(evidence: RunEvidence) -> dict[str, Any]:
    counts, class_names = evidence.counts, evidence.schema.label.names
    span_rows = spans.span_rows(counts)
    num_cells = len(counts.label_counts) * spans.num_spans(counts)
    return {
        "spans": span_rows,
        "num_drifted": sum(row.drifted for row in span_rows),
        "classes": tables.class_rows(counts, class_names),
        "class_margin": wording.margin(counts.label_noise_stddev * math.sqrt(num_cells)),
        "clients": tables.client_table(counts, evidence.certificate, class_names),
        "columns": tables.column_rows(counts, evidence.schema),
        "column_margin": wording.margin(counts.column_noise_stddev),
        "health_heads": tables.health_heads(),
    }
