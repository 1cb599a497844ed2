"""The plots of a budget report, as plotly's JSON: drawn by its script, which the page carries itself.

Plotly takes some tags in names for markup, so names that clients chose are escaped once more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from fedpipe.reports.budget_facts import BlockFacts, BudgetReport, GroupFacts, RunFacts
from fedpipe.reports.wording import NO_BREAK, percent, plural

STEP_COLORS = {"statistics": "#2f8f83", "preprocess": "#8a6bb1", "train": "#1f5a94", "analyze": "#c07f2a"}
_OTHER = "#6b7684"
_SPENT, _RESERVED, _LEFT = "#1f5a94", "#c07f2a", "#cfd8e2"
MOST_SPANS, MOST_RUNS, MOST_CELLS, MOST_ROWS = 60, 60, 4000, 60


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A drawing with the words that stand in for it; `data` and `layout` are plotly's."""

    name: str
    words: str
    height: int
    data: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]


def plots(report: BudgetReport) -> dict[str, Plot]:
    """Returns the plots that `report` has enough for, by name."""
    return {plot.name: plot for plot in _plots(report)}


def as_script(drawn: Mapping[str, Plot]) -> str:
    """Returns the plots as JSON that is safe inside a script element, whatever a client is called."""
    values = {name: {"data": plot.data, "layout": plot.layout} for name, plot in drawn.items()}
    text = json.dumps(values, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Returns each name without the dotted beginning that all of them share.

    >>> short_names(["loans.ada", "loans.bob"])
    {'loans.ada': 'ada', 'loans.bob': 'bob'}
    """
    if len(names) < 2:
        return {name: name for name in names}
    parts = [name.split(".") for name in names]
    shared = 0
    while all(len(each) > shared + 1 and each[shared] == parts[0][shared] for each in parts):
        shared += 1
    return {name: ".".join(each[shared:]) for name, each in zip(names, parts, strict=True)}


def _plots(report: BudgetReport) -> Iterator[Plot]:
    if report.spans:
        yield _span_plot(report.spans[-MOST_SPANS:])
    cells = len(report.clients) * len(report.spans)
    if (
        report.num_spans > 1
        and report.num_clients > 1
        and cells <= MOST_CELLS
        and report.num_clients <= MOST_ROWS
    ):
        yield _map(report)
    elif report.num_blocks > 1:
        yield _histogram(report.blocks)
    if any(len(path.times) > 1 for path in report.paths):
        yield _path_plot(report)
    if report.runs:
        yield _run_plot(report.runs[-MOST_RUNS:])
    if report.curves:
        yield _curve_plot(report)
    if len(report.days) > 1:
        yield _day_plot(report)


def _num_cells(report: BudgetReport) -> int:
    return report.num_clients * report.num_spans


def _span_plot(spans: Sequence[GroupFacts]) -> Plot:
    names = [each.name for each in spans]
    parts = (
        ("spent", _SPENT, [each.share_spent for each in spans]),
        ("reserved", _RESERVED, [each.share_reserved for each in spans]),
        ("left", _LEFT, [each.share_left for each in spans]),
    )
    return Plot(
        name="spans",
        words="Lifetime budget of the scarcest block of each span: spent, reserved and left.",
        height=320,
        data=[_bar(name, names, values, color) for name, color, values in parts],
        layout={"barmode": "stack", "yaxis": _share_axis(), "xaxis": {"type": "category"}},
    )


def _map(report: BudgetReport) -> Plot:
    short = short_names(sorted(each.name for each in report.clients))
    clients, spans = list(short), [each.name for each in report.spans]
    left: dict[tuple[str, str], BlockFacts] = {}
    for block in report.blocks:  # scarcest first
        left.setdefault((block.client, block.span), block)
    return Plot(
        name="map",
        words="What is left for each client and span: that of the scarcer of a client's blocks of the span.",
        height=170 + 18 * len(clients),
        data=[
            {
                "type": "heatmap",
                "x": spans,
                "y": [escape(short[name]) for name in clients],
                "z": [[_left(left.get((name, span))) for span in spans] for name in clients],
                "text": [[_cell_words(left.get((name, span))) for span in spans] for name in clients],
                "hovertemplate": "%{y}, %{x}<br>%{text}<extra></extra>",
                "zmin": 0,
                "zmax": 1,
                "colorscale": [[0, "#a61b1b"], [0.25, "#e0a43a"], [0.6, "#8fc1a9"], [1, "#1c6a4c"]],
                "colorbar": {"title": {"text": "left"}, "tickformat": ".0%", "thickness": 12},
                "xgap": 1,
                "ygap": 1,
            }
        ],
        layout={
            "xaxis": {"type": "category"},
            "yaxis": {"type": "category", "autorange": "reversed", "automargin": True},
        },
    )


def _left(block: BlockFacts | None) -> float | None:
    return None if block is None else round(block.share_left, 4)


def _cell_words(block: BlockFacts | None) -> str:
    if block is None:
        return "no budget yet"
    return (
        f"{percent(block.share_left)} left of epsilon {block.epsilon:.3g} "
        f"({block.split}), {plural(len(block.runs), 'run')}"
    ).replace(NO_BREAK, " ")


def _histogram(blocks: Sequence[BlockFacts]) -> Plot:
    counts = [0] * 20
    for block in blocks:
        counts[min(int(block.share_left * 20), 19)] += 1
    names = [f"{5 * place} to {5 * place + 5} %" for place in range(20)]
    return Plot(
        name="histogram",
        words="How many blocks have how much of their lifetime budget left.",
        height=300,
        data=[
            {
                **_bar("blocks", names, counts, _SPENT),
                "hovertemplate": "%{y:,} blocks have %{x} left<extra></extra>",
            }
        ],
        layout={
            "yaxis": {"title": {"text": "blocks"}},
            "xaxis": {"type": "category", "title": {"text": "left"}},
        },
    )


def _path_plot(report: BudgetReport) -> Plot:
    return Plot(
        name="paths",
        words="How the budgets of the scarcest blocks were used up, run by run.",
        height=340,
        data=[
            {
                "type": "scatter",
                "mode": "lines+markers",
                "line": {"shape": "hv"},
                "name": escape(path.block),
                "x": list(path.times),
                "y": list(path.shares),
                "hovertemplate": "%{x|%Y-%m-%d %H:%M}: %{y:.1%} used<extra>%{fullData.name}</extra>",
            }
            for path in report.paths
            if len(path.times) > 1
        ],
        layout={
            "yaxis": {**_share_axis(), "range": [0, 1.05]},
            "shapes": [
                {
                    "type": "line",
                    "xref": "paper",
                    "x0": 0,
                    "x1": 1,
                    "y0": 1,
                    "y1": 1,
                    "line": {"color": "#a61b1b", "dash": "dot"},
                }
            ],
        },
    )


def _run_plot(runs: Sequence[RunFacts]) -> Plot:
    names = [run.run_id for run in runs]
    steps = list(dict.fromkeys(step for run in runs for step in run.steps))
    return Plot(
        name="runs",
        words="What each run took of its blocks' lifetime budgets, on average, by step.",
        height=320,
        data=[
            _bar(step, names, [run.steps.get(step, 0.0) for run in runs], STEP_COLORS.get(step, _OTHER))
            for step in sorted(
                steps, key=lambda step: list(STEP_COLORS).index(step) if step in STEP_COLORS else 9
            )
        ],
        layout={
            "barmode": "stack",
            "yaxis": {**_share_axis(), "range": None},
            "xaxis": {"type": "category", "showticklabels": len(names) <= 12},
        },
    )


def _curve_plot(report: BudgetReport) -> Plot:
    return Plot(
        name="curve",
        words="The running epsilon of the scarcest block of each split, at several deltas.",
        height=340,
        data=[
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": escape(curve.block),
                "x": [point.delta for point in curve.points],
                "y": [point.epsilon if point.epsilon < 1e6 else None for point in curve.points],
                "hovertemplate": "delta %{x:.0e}: epsilon %{y:.2f}<extra>%{fullData.name}</extra>",
            }
            for curve in report.curves
        ],
        layout={
            "xaxis": {"type": "log", "title": {"text": "delta"}, "exponentformat": "power", "dtick": 1},
            "yaxis": {"title": {"text": "running epsilon"}, "rangemode": "tozero"},
        },
    )


def _day_plot(report: BudgetReport) -> Plot:
    days = [day.date for day in report.days]
    steps = [each.step for each in report.steps]
    return Plot(
        name="days",
        words="Releases by day (UTC) and step.",
        height=280,
        data=[
            {
                **_bar(
                    step,
                    days,
                    [day.releases.get(step, 0) for day in report.days],
                    STEP_COLORS.get(step, _OTHER),
                ),
                "hovertemplate": "%{x}: %{y:,} releases<extra>%{fullData.name}</extra>",
            }
            for step in steps
        ],
        layout={"barmode": "stack", "yaxis": {"title": {"text": "releases"}}, "xaxis": {"type": "date"}},
    )


def _bar(name: str, x: Sequence[Any], y: Sequence[float], color: str) -> dict[str, Any]:
    return {
        "type": "bar",
        "name": name,
        "x": list(x),
        "y": list(y),
        "marker": {"color": color},
        "hovertemplate": "%{x}: %{y:.1%}<extra>%{fullData.name}</extra>",
    }


def _share_axis() -> dict[str, Any]:
    return {"title": {"text": "of the lifetime budget"}, "tickformat": ".0%", "range": [0, 1]}
