"""Quality by slice, against earlier versions, and what budgets are left, as rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fedpipe.learning.evaluation import Estimate
from fedpipe.learning.slices import Slice, SliceGroup
from fedpipe.reports.evidence import Budget, RunEvidence
from fedpipe.reports.quality import MetricRow, Reference
from fedpipe.reports.wording import NO_BREAK, count, figure, listing, percent, plural

MAX_SLICES = 30
MAX_VERSIONS = 10
_SPLITS = {"train": "Training records", "eval": "Held-out records", "all": "All records"}


@dataclass(frozen=True, kw_only=True)
class SliceRow:
    """A slice in words; `auc` is placed for drawing beside the AUC of all records."""

    name: str
    records: str
    auc: MetricRow | None
    observed: str
    predicted: str
    look: bool


@dataclass(frozen=True, kw_only=True)
class SliceReport:
    """All slices by one column. `num_hidden` more are in the artifact."""

    title: str
    rows: tuple[SliceRow, ...]
    too_few: str
    num_too_few: int
    num_hidden: int
    num_flagged: int


@dataclass(frozen=True, kw_only=True)
class VersionRow:
    """A version in words; `auc` is placed for drawing."""

    version: str
    created_at: str
    epsilon: float | None
    auc: MetricRow
    brier: Estimate
    this: bool


@dataclass(frozen=True, kw_only=True)
class BudgetRow:
    """What a split's lifetime budget affords after this run."""

    title: str
    epsilon: float
    used: str
    by_this_run: str
    left: str
    epsilon_of_user: float | None = None


def slice_reports(evidence: RunEvidence, auc: Estimate) -> tuple[SliceReport, ...]:
    """Returns a report for the clients and for each column that was asked for."""
    return tuple(_slice_report(group, auc) for group in evidence.slices)


def version_rows(evidence: RunEvidence) -> tuple[VersionRow, ...]:
    """Returns the latest versions, this one last; none when it is the first."""
    if len(evidence.versions) < 2:
        return ()
    return tuple(_version_rows(evidence))


def budget_rows(budgets: Sequence[Budget]) -> tuple[BudgetRow, ...]:
    """Returns what every split's budget affords after this run."""
    return tuple(
        BudgetRow(
            title=_SPLITS.get(each.split, each.split),
            epsilon=each.epsilon,
            used=percent(min(each.used, 1.0)),
            by_this_run=percent(each.by_this_run) if each.by_this_run else "nothing",
            left=plural(each.runs_left, "run") if each.runs_left else "none",
            epsilon_of_user=each.epsilon_of_user,
        )
        for each in budgets
    )


def scarcest(budgets: Sequence[Budget]) -> BudgetRow | None:
    """Returns the budget that affords the fewest runs like this one; None where none is known."""
    ordered = sorted(budgets, key=lambda each: (each.runs_left, -each.used))
    return budget_rows(ordered[:1])[0] if ordered else None


def _slice_report(group: SliceGroup, auc: Estimate) -> SliceReport:
    rows = tuple(_slice_row(each, auc) for each in group.slices[:MAX_SLICES])
    return SliceReport(
        title=group.column.replace("_", " "),
        rows=rows,
        too_few=listing(group.too_few, most=60),
        num_too_few=len(group.too_few),
        num_hidden=max(len(group.slices) - MAX_SLICES, 0),
        num_flagged=sum(row.look for row in rows),
    )


def _slice_row(each: Slice, auc: Estimate) -> SliceRow:
    reach = (each.count.upper - each.count.lower) / 2
    return SliceRow(
        name=each.name,
        records=count(each.count.estimate) + (f" ±{NO_BREAK}{count(reach)}" if reach else ""),
        auc=_placed("AUC", each.auc, auc.estimate) if each.auc else None,
        observed=_range(each.observed),
        predicted=_range(each.predicted) if each.predicted else "",
        look=each.miscalibrated,
    )


def _version_rows(evidence: RunEvidence) -> Iterator[VersionRow]:
    last = evidence.versions[-1]
    for each in evidence.versions[-MAX_VERSIONS:]:
        yield VersionRow(
            version=str(each.version),
            created_at=each.created_at[:16].replace("T", " "),
            epsilon=each.epsilon,
            auc=_placed("AUC", each.auc, last.auc.estimate),
            brier=each.brier,
            this=each is last,
        )


def _placed(title: str, value: Estimate, reference: float) -> MetricRow:
    mark = Reference(value=reference, words="all records")
    return MetricRow(name="auc", title=title, meaning="", value=value, reference=mark, scale_end=1.0)


def _range(value: Estimate) -> str:
    return f"{figure(value.estimate)} ({figure(value.lower)} to {figure(value.upper)})"
