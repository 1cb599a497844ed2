"""The report of a story of weeks: one HTML page that asks for nothing else, and the same as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2 import Environment

from fedpipe.reports import wording
from fedpipe.reports.charts import Tick
from fedpipe.reports.templates import make_environment
from simulations.scenarios.outcomes import Week
from simulations.scenarios.replay import Account, Verdict
from simulations.scenarios.settings import Scenario

TEMPLATE = "report.html.j2"
WIDTH, HEIGHT = 940.0, 150.0
_TICKS = 13


@dataclass(frozen=True, kw_only=True)
class Mark:
    """An estimate of a week with its interval, and the exact value where it is shown, as places."""

    x: float
    y: float
    top: float
    bottom: float
    exact: float | None
    words: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Estimates over weeks."""

    label: str
    marks: tuple[Mark, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What a client's records of one week have spent: the dearer of their two blocks."""

    x: float
    used: float
    runs: int
    words: str


def story_data(scenario: Scenario, weeks: Sequence[Week], verdict: Verdict) -> dict[str, Any]:
    """Returns everything that the report shows, as JSON values."""
    return {
        "scenario": scenario.model_dump(mode="json"),
        "weeks": [week.model_dump(mode="json") for week in weeks],
        "blocks": [
            {
                "client": block.client,
                "span": block.span,
                "split": block.split,
                "budget": account.budget,
                "spent": account.held,
                "trainings": account.num_trainings,
                "releases": account.num_releases,
            }
            for block, account in sorted(verdict.accounts.items())
        ],
        "admission": {
            "admitted": verdict.num_admitted,
            "refused": verdict.num_refused,
            "faults": list(verdict.faults),
        },
    }


def render_story(scenario: Scenario, weeks: Sequence[Week], verdict: Verdict) -> str:
    """Returns the page. Exact figures are marked: a federation has none."""
    attempts = [attempt for week in weeks for attempt in week.attempts]
    fates = [attempt.fate for attempt in attempts]
    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            scenario=scenario,
            weeks=weeks,
            verdict=verdict,
            fates={fate: fates.count(fate) for fate in dict.fromkeys(fates)},
            num_runs=len(attempts),
            num_alerts=sum(bool(attempt.alerts) for attempt in attempts),
            most_used=max((account.used for account in verdict.accounts.values()), default=0.0),
            most_trainings=max((a.num_trainings for a in verdict.accounts.values()), default=0),
            auc=_auc_chart(weeks),
            shares=_share_chart(weeks),
            heat=_heat_map(scenario, weeks, verdict),
            x_ticks=_x_ticks(len(weeks)),
            step=WIDTH / max(len(weeks), 1),
            size=(WIDTH, HEIGHT),
        )
    )


@lru_cache(maxsize=1)
def _environment() -> Environment:
    filters = (wording.figure, wording.percent, wording.plural, wording.count)
    return make_environment(*filters, folder=("simulations", "scenarios"))


def _auc_chart(weeks: Sequence[Week]) -> Chart:
    values = [(week.number, week.own.auc, week.own.exact_auc) for week in weeks if week.own.auc is not None]
    return _chart("Area under the ROC curve by week, private estimates", values, len(weeks), 0.5)


def _share_chart(weeks: Sequence[Week]) -> Chart:
    values = [(w.number, w.own.positive_share, None) for w in weeks if w.own.positive_share is not None]
    return _chart("Share of positive labels in each new week, from noisy counts", values, len(weeks), 0.0)


def _chart(label: str, values: Sequence[tuple[int, Any, float | None]], num_weeks: int, low: float) -> Chart:
    def height(value: float) -> float:
        return round(HEIGHT * (1 - (min(max(value, low), 1.0) - low) / (1 - low)), 1)

    marks = tuple(
        Mark(
            x=_place(number, num_weeks),
            y=height(value.estimate),
            top=height(value.upper),
            bottom=height(value.lower),
            exact=None if exact is None else height(exact),
            words=f"week {number}: {wording.figure(value.estimate)} "
            f"({wording.figure(value.lower)} to {wording.figure(value.upper)})",
        )
        for number, value, exact in values
    )
    y_ticks = tuple(
        Tick(place=height(low + (1 - low) * part / 5), text=f"{low + (1 - low) * part / 5:.1f}")
        for part in range(6)
    )
    return Chart(label=label, marks=marks, x_ticks=_x_ticks(num_weeks), y_ticks=y_ticks)


def _x_ticks(num_weeks: int) -> tuple[Tick, ...]:
    every = max(1, -(-num_weeks // _TICKS))
    return tuple(
        Tick(place=_place(number, num_weeks), text=str(number)) for number in range(1, num_weeks + 1, every)
    )


def _place(number: int, num_weeks: int) -> float:
    return round(WIDTH * (number - 0.5) / num_weeks, 1)


def _heat_map(
    scenario: Scenario, weeks: Sequence[Week], verdict: Verdict
) -> tuple[tuple[str, tuple[Cell, ...]], ...]:
    dearest: dict[tuple[str, str], Account] = {}
    for block, account in verdict.accounts.items():
        key = (block.client.rpartition(".")[2], block.span)
        if key not in dearest or account.used > dearest[key].used:
            dearest[key] = account
    return tuple(
        (name, tuple(_cells(name, weeks, dearest)))
        for name in (f"client-{number}" for number in range(1, scenario.num_clients + 1))
    )


def _cells(name: str, weeks: Sequence[Week], dearest: dict[tuple[str, str], Account]) -> list[Cell]:
    found = ((week, dearest.get((name, week.span))) for week in weeks)
    return [
        Cell(
            x=round(WIDTH * (week.number - 1) / len(weeks), 1),
            used=round(account.used, 4),
            runs=account.num_trainings,
            words=f"{name}, week {week.number}: {account.used:.1%} spent, {account.num_trainings} trainings",
        )
        for week, account in found
        if account is not None
    ]
