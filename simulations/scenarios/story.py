"""A scenario from beginning to end: week by week, checked, shown and reported."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fedpipe.files import write_text
from fedpipe.pipeline import Workspace
from simulations.scenarios.outcomes import Attempt, Diary, Week
from simulations.scenarios.replay import Replay, Verdict
from simulations.scenarios.report import render_story, story_data
from simulations.scenarios.settings import Scenario
from simulations.scenarios.weekly import live_through

REPORT = "report.html"
DATA = "report.json"


def tell(scenario: Scenario, directory: Path, *, as_json: bool = False) -> None:
    """Runs every week that is not over yet, and writes the report. A line a week, on stderr with `as_json`.

    After every week the ledger is compared with a replay of what it should have admitted.

    Raises:
      LedgerError: the filter admitted or charged something else.
      ConfigError: another scenario was begun in `directory`.
    """
    stream = sys.stderr if as_json else sys.stdout
    workspace = Workspace(directory)
    diary = Diary(workspace)
    with workspace.lock():
        diary.begin(scenario)
        over = diary.weeks()[: scenario.weeks]
        if over:
            print(f"Going on after week {over[-1].number}.", file=stream, flush=True)
        replay = Replay(scenario=scenario, workspace=workspace)
        for week in over:
            replay.follow(week)
        print(HEAD, file=stream, flush=True)
        for number in range(len(over) + 1, scenario.weeks + 1):
            over.append(live_through(workspace, scenario, number, diary))
            replay.follow(over[-1])
            replay.verdict().check()
            for line in lines(over[-1]):
                print(line, file=stream, flush=True)
        verdict = replay.verdict()
        data = story_data(scenario, over, verdict)
        write_text(diary.directory / DATA, json.dumps(data, indent=2) + "\n")
        write_text(diary.directory / REPORT, render_story(scenario, over, verdict))
    verdict.check()
    for line in closing(verdict, over):
        print(line, file=stream)
    print(f"report      {diary.directory / REPORT}", file=stream)
    if as_json:
        print(json.dumps(data))


HEAD = f"{'week':<14}{'spans':>5}  {'outcome':<9}{'version':<11}{'AUC':<22}{'exact*':<8}{'positive':<17}notes"


def lines(week: Week) -> list[str]:
    """Returns a line for each run of a week."""
    return [_line(week, attempt) for attempt in week.attempts]


def _line(week: Week, attempt: Attempt) -> str:
    auc, share = attempt.auc, attempt.positive_share
    name = f"{week.number:>2} {week.span}" + ("+" if attempt.extra else "")
    estimate = f"{auc.estimate:.3f} ({auc.lower:.2f}-{auc.upper:.2f})" if auc else "-"
    exact = f"{attempt.exact_auc:.3f}" if attempt.exact_auc is not None else "-"
    positive = f"{share.estimate:.2f} ({share.lower:.2f}-{share.upper:.2f})" if share else "-"
    notes = [*(() if attempt.extra else week.events)]
    notes += attempt.alerts if attempt.fate == "trained" else [attempt.reason.split(". ")[0]]
    notes += [f"{client} refused" for client in attempt.refusals] if attempt.fate == "trained" else []
    made = f"{attempt.fate:<9}{attempt.model_version or '-':<11}{estimate:<22}{exact:<8}{positive:<17}"
    return f"{name:<14}{len(attempt.spans):>5}  {made}{'; '.join(notes)}".rstrip()


def closing(verdict: Verdict, weeks: list[Week]) -> list[str]:
    """Returns what the whole story came to. `verdict` has been checked."""
    fates = [attempt.fate for week in weeks for attempt in week.attempts]
    counted = ", ".join(f"{fates.count(fate)} {fate}" for fate in dict.fromkeys(fates))
    accounts = verdict.accounts.values()
    used = max((each.used for each in accounts), default=0.0)
    most = max((each.num_trainings for each in accounts), default=0)
    admitted = f"admitted exactly {verdict.num_admitted} claims of clients and refused {verdict.num_refused}"
    return [
        "* known in simulation only",
        f"{len(weeks)} weeks, {len(fates)} runs: {counted}.",
        f"Checked: the filter {admitted}, as a replay of the budgets says.",
        f"Checked: {len(accounts)} blocks spent exactly what runs cost, {used:.4%} of a budget at most.",
        f"Checked: no block was in more than {most} trainings.",
    ]
