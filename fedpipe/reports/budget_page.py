"""A budget report for auditors: one HTML file with interactive plots that asks for nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from jinja2 import Environment

from fedpipe.reports import wording
from fedpipe.reports.budget_facts import BudgetReport
from fedpipe.reports.budget_plots import as_script, plots, short_names
from fedpipe.reports.templates import make_environment

TEMPLATE = "budget_report.html.j2"
MOST_ROWS, MOST_BLOCKS = 25, 20
_NEIGHBOURS = {"add_or_remove_one": "adding or removing one {unit}"}


def render_page(report: BudgetReport) -> str:
    """Returns the page. Tables show the scarcest MOST_ROWS of what there is; the JSON form has all.

    Names that clients chose are escaped, in the text and in the scripts.
    """
    drawn = plots(report)
    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            report=report,
            plots=drawn,
            plot_data=as_script(drawn),
            plotly=_plotly(),
            unit=" or ".join(report.units) or "record",
            neighbours=_neighbours(report),
            short=short_names(sorted(each.name for each in report.clients)),
            scarcest=report.blocks[0] if report.blocks else None,
            most=MOST_ROWS,
            most_blocks=MOST_BLOCKS,
            forgotten=forgotten(report) if report.num_in_gap else None,
            unprotected=[run for run in report.runs if run.protection != "private"],
        )
    )


def forgotten(report: BudgetReport) -> str:
    """Returns what a gap means, in words."""
    blocks = wording.plural(report.num_in_gap, "block")
    return (
        f"GAP: a ledger was restored from an older copy. What was spent of {blocks} since that copy is not "
        "known, so all of it counts as spent."
    )


def _neighbours(report: BudgetReport) -> str:
    unit = report.units[0] if report.units else "record"
    words = [
        _NEIGHBOURS.get(relation, relation.replace("_", " ")).format(unit=unit)
        for relation in report.neighboring_relations
    ]
    return " or ".join(words)


@lru_cache(maxsize=1)
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def share(value: float) -> str:
    """Returns a part of a budget in per cent; rounding errors are not worth a digit.

    >>> share(1.8e-9).replace(wording.NO_BREAK, " "), share(0.0123).replace(wording.NO_BREAK, " ")
    ('0 %', '1.2 %')
    """
    return wording.percent(value if value >= 5e-5 else 0.0)


def versions(names: Sequence[str]) -> str:
    """Returns versions of models, those that follow each other joined.

    >>> versions(["loans:1", "loans:2", "loans:3", "loans:5", "risk:1"])
    'loans:1-3, loans:5, risk:1'
    """
    ranges: list[tuple[str, int, int]] = []
    for name in names:
        model, _, number = name.rpartition(":")
        if ranges and ranges[-1][0] == model and ranges[-1][2] + 1 == int(number):
            ranges[-1] = (model, ranges[-1][1], int(number))
        else:
            ranges.append((model, int(number), int(number)))
    return wording.listing(
        (f"{model}:{first}" if first == last else f"{model}:{first}-{last}" for model, first, last in ranges),
        most=3,
    )


def joined(items: Sequence[str], most: int = 4) -> str:
    """Returns a list in words, cut short after `most`."""
    return wording.listing(items, most=most)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    return make_environment(
        joined, share, versions, wording.count, wording.plural, wording.power_of_ten, wording.round_up
    )
