"""What runs, steps and days took of the blocks, over all ledgers that know of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import get_args

from fedpipe.ledger.history import BlockHistory, History, Protection, RunHistory
from fedpipe.reports.budget_facts import DayFacts, PathFacts, RunFacts, StepFacts


def join_runs(histories: Sequence[History]) -> list[RunHistory]:
    """Returns each run once, though several nodes' ledgers know it."""
    parts: defaultdict[str, list[RunHistory]] = defaultdict(list)
    for history in histories:
        for run in history.runs:
            parts[run.run_id].append(run)
    joined = [
        RunHistory(
            run_id=run_id,
            began_at=min(each.began_at for each in found),
            last_release_at=max((e.last_release_at for e in found if e.last_release_at), default=None),
            num_releases=sum(each.num_releases for each in found),
            clients=tuple(sorted({name for each in found for name in each.clients})),
            is_open=any(each.is_open for each in found),
            protection=_weakest(each.protection for each in found),
        )
        for run_id, found in parts.items()
    ]
    return sorted(joined, key=lambda run: (run.began_at, run.run_id))


def _weakest(protections: Iterable[Protection]) -> Protection:
    found = set(protections)
    return next(each for each in get_args(Protection)[::-1] if each in found)


def run_facts(
    histories: Sequence[History],
    runs: Sequence[RunHistory],
    held: Sequence[BlockHistory],
    made: Mapping[str, Sequence[str]],
) -> tuple[RunFacts, ...]:
    """Returns what each of `runs` took, but for private ones that took nothing of `held`.

    Args:
      histories: one of each ledger.
      runs: in the order of the result, from `join_runs`.
      held: the blocks that the report is about.
      made: from a run's id to the versions made from its releases.
    """
    shares: defaultdict[str, list[float]] = defaultdict(list)
    for each in held:
        for charge in each.charges:
            shares[charge.run_id].append(charge.held / each.budget)
    steps: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for history in histories:
        for part in history.steps:
            steps[part.run_id][part.step] += part.shares / max(len(shares[part.run_id]), 1)
    return tuple(
        RunFacts(
            run_id=run.run_id,
            began_at=run.began_at,
            last_release_at=run.last_release_at,
            is_open=run.is_open,
            protection=run.protection,
            num_clients=len(run.clients),
            num_blocks=len(shares[run.run_id]),
            num_releases=run.num_releases,
            largest_share=max(shares[run.run_id], default=0.0),
            steps=dict(steps[run.run_id]),
            models=tuple(made.get(run.run_id, ())),
        )
        for run in runs
        if shares[run.run_id] or run.protection != "private"
    )


def step_facts(histories: Sequence[History], num_blocks: int) -> tuple[StepFacts, ...]:
    """Returns what each step took over all runs, dearest first, on average over `num_blocks` blocks."""
    shares: defaultdict[str, float] = defaultdict(float)
    releases: defaultdict[str, int] = defaultdict(int)
    for history in histories:
        for charge in history.steps:
            shares[charge.step] += charge.shares / num_blocks
        for day in history.days:
            releases[day.step] += day.num_releases
    dearest = sorted(shares, key=lambda step: -shares[step])
    return tuple(StepFacts(step=s, mean_share=shares[s], num_releases=releases[s]) for s in dearest)


def day_facts(histories: Sequence[History]) -> tuple[DayFacts, ...]:
    """Returns how many releases each step made on each day, oldest first."""
    days: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for history in histories:
        for day in history.days:
            days[day.date][day.step] += day.num_releases
    return tuple(DayFacts(date=date, releases=dict(days[date])) for date in sorted(days))


def path_facts(history: BlockHistory, runs: Sequence[RunHistory]) -> PathFacts:
    """Returns how the budget of one block was used up, run by run."""
    began = {run.run_id: run.began_at for run in runs}
    shares = accumulate(charge.held / history.budget for charge in history.charges)
    return PathFacts(
        block=str(history.block),
        times=tuple(began[charge.run_id] for charge in history.charges),
        shares=tuple(shares),
    )
