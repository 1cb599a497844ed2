"""What people see of a story."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from fedpipe.learning.evaluation import Estimate
from fedpipe.ledger import Block
from simulations.scenarios.command import app
from simulations.scenarios.outcomes import Attempt, Fate, Week
from simulations.scenarios.replay import Account, Verdict
from simulations.scenarios.report import render_story, story_data
from simulations.scenarios.settings import Scenario
from simulations.scenarios.story import closing, lines


def attempt(fate: Fate, **changes: object) -> Attempt:
    values = {
        "extra": False,
        "run_ids": ("run-1",),
        "spans": ("2026-W02",),
        "clients": ("client-1",),
        "accepted": None,
        "refusals": {},
        "fate": fate,
    }
    return Attempt.model_validate(values | changes)


@pytest.fixture
def weeks() -> list[Week]:
    figures = {
        "model_version": "weekly:1",
        "auc": Estimate(estimate=0.8, lower=0.7, upper=0.9),
        "exact_auc": 0.81,
        "positive_share": Estimate(estimate=0.5, lower=0.4, upper=0.6),
        "alerts": ("the share of 'no' <b>fell</b>",),
    }
    return [
        Week(number=1, span="2026-W02", events=("a thing",), attempts=(attempt("trained", **figures),)),
        Week(number=2, span="2026-W03", events=(), attempts=(attempt("refused", reason="Too much. Less."),)),
    ]


def verdict(*faults: str) -> Verdict:
    block = Block(client="weekly.client-1", span="2026-W02", split="train")
    account = Account(budget=2.0, held=1.0, num_trainings=1, num_runs=1, num_releases=6)
    return Verdict(accounts={block: account}, faults=faults, num_admitted=1, num_refused=1)


def test_a_line_says_what_came_of_a_week(weeks: list[Week]) -> None:
    [first], [second] = map(lines, weeks)
    assert re.sub(" +", " ", first) == (
        " 1 2026-W02 1 trained weekly:1 0.800 (0.70-0.90) 0.810 0.50 (0.40-0.60) a thing; "
        "the share of 'no' <b>fell</b>"
    )
    assert re.sub(" +", " ", second) == " 2 2026-W03 1 refused - - - - Too much"


def test_the_end_says_what_was_checked(weeks: list[Week]) -> None:
    said = " ".join(closing(verdict(), weeks))
    assert "2 weeks, 2 runs: 1 trained, 1 refused." in said
    assert "admitted exactly 1 claims of clients and refused 1" in said
    assert "50.0000% of a budget at most" in said


def test_the_page_shows_faults_first_and_escapes_what_it_shows(
    weeks: list[Week], make_scenario: Callable[..., Scenario]
) -> None:
    scenario = make_scenario(weeks=2)
    page = render_story(scenario, weeks, verdict())
    assert "<b>fell</b>" not in page
    assert 'fill-opacity="0.5"' in page
    assert "client-1, week 1: 50.0% spent, 1 trainings" in page
    assert "The ledger did not do what it should" in render_story(scenario, weeks, verdict("week 1: <b>"))
    data = story_data(scenario, weeks, verdict())
    assert [week["attempts"][0]["fate"] for week in data["weeks"]] == ["trained", "refused"]
    assert data["blocks"][0]["spent"] == 1.0


def test_the_command_says_what_it_takes() -> None:
    said = CliRunner().invoke(app, ["weeks", "--help"], terminal_width=200).output
    for option in ("--weeks", "--window", "--clients", "--seed", "--workspace", "--story", "--json"):
        assert option in said
