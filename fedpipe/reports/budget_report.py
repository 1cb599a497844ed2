"""From ledgers' histories to the facts of a budget report."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import get_args

from fedpipe.ledger.blocks import Block, BlockPolicy, epsilon_over_blocks
from fedpipe.ledger.history import BlockHistory, History, Protection, RunHistory
from fedpipe.reports.budget_facts import (
    BlockFacts,
    BudgetReport,
    DayFacts,
    GroupFacts,
    ModelFacts,
    PathFacts,
    RunFacts,
    StepFacts,
)
from fedpipe.reports.running_epsilon import ReadEvents, RunningEpsilons
from fedpipe.reports.wording import plural, round_up

PACE_RUNS = 4
NUM_PATHS = 8
ROUNDING = 1 + 1e-9

NOTES = (
    "The guarantee is the lifetime budget: over all its runs together, a block never costs more than that.",
    "A running epsilon is what these releases would cost had all been planned together: no guarantee.",
    "What open claims may still release counts as spent, until they are closed.",
    "A person with records at several clients, or of several spans, pays at each: these costs add up.",
    "The ledger proves what was charged, not that a client ran its mechanism: each is trusted with its own.",
)


@dataclass(frozen=True, kw_only=True)
class ModelOrigin:
    """A registered version, and the (run, step) pairs whose releases it is made from."""

    name: str
    run_id: str
    epsilon: float | None
    delta: float | None
    sources: frozenset[tuple[str, str]]


def make_report(
    histories: Sequence[History],
    read_events: ReadEvents,
    *,
    made_at: str,
    origins: Sequence[ModelOrigin] = (),
    client: str | None = None,
) -> BudgetReport:
    """Returns what `histories` say together.

    Args:
      histories: one of each ledger.
      read_events: from a ledger's name and some of its blocks to their events; see `history.read_events`.
      made_at: ISO 8601.
      origins: versions whose lineage is known.
      client: whose records the report is about, if it is one client's.
    """
    held = sorted((each for history in histories for each in history.blocks), key=_scarcity)
    exact = RunningEpsilons.read(held, read_events)
    made = _models_by_run(origins)
    blocks = tuple(_block_facts(each, exact.epsilon(each), made) for each in held)
    runs = _joined_runs(histories)
    run_facts = _run_facts(histories, runs, held, made)
    spans = sorted(_groups(blocks, lambda each: each.span), key=lambda each: each.name)
    return BudgetReport(
        made_at=made_at,
        ledgers=tuple(history.ledger for history in histories),
        client=client,
        units=tuple(sorted({each.unit for each in held})),
        neighboring_relations=tuple(sorted({each.neighboring_relation for each in held})),
        num_clients=len({each.client for each in blocks}),
        num_spans=len(spans),
        num_blocks=len(blocks),
        num_exhausted=sum(each.is_exhausted for each in blocks),
        num_runs=len(run_facts),
        num_releases=sum(run.num_releases for run in run_facts),
        num_in_gap=sum(each.in_gap for each in blocks),
        forecasts=tuple(forecasts(spans)),
        clients=tuple(_groups(blocks, lambda each: each.client)),
        spans=tuple(spans),
        steps=_steps(histories, len(blocks)),
        runs=run_facts,
        models=tuple(_model_facts(origin, held) for origin in origins),
        days=_days(histories),
        curves=tuple(exact.curves(held)),
        paths=tuple(_path(each, runs) for each in _scarcest_of_spans(held)[:NUM_PATHS]),
        blocks=blocks,
        notes=(*NOTES, *_notes_on_users(held)),
    )


def forecasts(spans: Sequence[GroupFacts]) -> list[str]:
    """Returns how long the blocks of each span last, in words; neighbours may share a sentence."""
    known = [each for each in spans if each.retrainings_left is not None]
    sentences, start = [], 0
    for place, each in enumerate(known):
        last = place + 1 == len(known)
        if last or known[place + 1].retrainings_left != each.retrainings_left:
            sentences.append(_forecast(known[start : place + 1]))
            start = place + 1
    return sentences


def _forecast(spans: Sequence[GroupFacts]) -> str:
    first, last = spans[0].name, spans[-1].name
    of = f"of {first}" if first == last else f"of {first} to {last}"
    left = spans[0].retrainings_left or 0
    if not left:
        return f"The blocks {of} are exhausted: they cannot pay for another retraining like their last."
    return (
        f"At the pace of their last runs (up to {PACE_RUNS}), the blocks {of} last "
        f"{plural(left, 'more retraining')}."
    )


def _scarcity(history: BlockHistory) -> tuple[float, str, Block]:
    return history.left / history.budget, history.ledger, history.block


def _models_by_run(origins: Sequence[ModelOrigin]) -> Mapping[str, Sequence[str]]:
    made: defaultdict[str, list[str]] = defaultdict(list)
    for origin in origins:
        for run_id in sorted({run_id for run_id, _ in origin.sources}):
            made[run_id].append(origin.name)
    return made


def _block_facts(
    history: BlockHistory, running_epsilon: float | None, made: Mapping[str, Sequence[str]]
) -> BlockFacts:
    spent, reserved, budget = history.spent, history.reserved, history.budget
    return BlockFacts(
        ledger=history.ledger,
        client=history.block.client,
        span=history.block.span,
        split=history.block.split,
        epsilon=history.policy.epsilon,
        delta=history.policy.delta,
        renyi_order=history.policy.renyi_order,
        renyi_budget=budget,
        renyi_spent=spent,
        renyi_reserved=reserved,
        renyi_left=history.left,
        share_spent=spent / budget,
        share_reserved=reserved / budget,
        share_left=history.left / budget,
        running_epsilon=running_epsilon,
        in_gap=history.in_gap,
        num_releases=history.num_releases,
        runs=tuple(charge.run_id for charge in history.charges),
        models=tuple(
            dict.fromkeys(name for charge in history.charges for name in made.get(charge.run_id, ()))
        ),
        retrainings_left=_retrainings_left(history),
    )


def _retrainings_left(history: BlockHistory) -> int | None:
    """Returns how many more runs the block affords at the mean cost of its last ones."""
    recent = history.charges[-PACE_RUNS:]
    if history.in_gap:
        return 0
    if not recent:
        return None
    pace = sum(charge.held for charge in recent) / len(recent)
    return int(history.left / pace * ROUNDING)


def _groups(blocks: Sequence[BlockFacts], of: Callable[[BlockFacts], str]) -> list[GroupFacts]:
    """Returns groups of `blocks`, which come scarcest first, in that order."""
    grouped: defaultdict[str, list[BlockFacts]] = defaultdict(list)
    for each in blocks:
        grouped[of(each)].append(each)
    return [_group(name, members) for name, members in grouped.items()]


def _group(name: str, members: Sequence[BlockFacts]) -> GroupFacts:
    scarcest = members[0]
    left = [each.retrainings_left for each in members if each.retrainings_left is not None]
    return GroupFacts(
        name=name,
        num_blocks=len(members),
        num_exhausted=sum(each.is_exhausted for each in members),
        scarcest=scarcest.name,
        share_spent=scarcest.share_spent,
        share_reserved=scarcest.share_reserved,
        share_left=scarcest.share_left,
        epsilon=scarcest.epsilon,
        delta=scarcest.delta,
        running_epsilon=scarcest.running_epsilon,
        retrainings_left=min(left, default=None),
    )


def _joined_runs(histories: Sequence[History]) -> list[RunHistory]:
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


def _steps(histories: Sequence[History], num_blocks: int) -> tuple[StepFacts, ...]:
    shares: defaultdict[str, float] = defaultdict(float)
    releases: defaultdict[str, int] = defaultdict(int)
    for history in histories:
        for charge in history.steps:
            shares[charge.step] += charge.shares / num_blocks
        for day in history.days:
            releases[day.step] += day.num_releases
    dearest = sorted(shares, key=lambda step: -shares[step])
    return tuple(StepFacts(step=s, mean_share=shares[s], num_releases=releases[s]) for s in dearest)


def _run_facts(
    histories: Sequence[History],
    runs: Sequence[RunHistory],
    held: Sequence[BlockHistory],
    made: Mapping[str, Sequence[str]],
) -> tuple[RunFacts, ...]:
    largest: defaultdict[str, float] = defaultdict(float)
    num_blocks: defaultdict[str, int] = defaultdict(int)
    for each in held:
        for charge in each.charges:
            num_blocks[charge.run_id] += 1
            largest[charge.run_id] = max(largest[charge.run_id], charge.held / each.budget)
    steps: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for history in histories:
        for part in history.steps:
            steps[part.run_id][part.step] += part.shares / max(num_blocks[part.run_id], 1)
    return tuple(
        RunFacts(
            run_id=run.run_id,
            began_at=run.began_at,
            last_release_at=run.last_release_at,
            is_open=run.is_open,
            protection=run.protection,
            num_clients=len(run.clients),
            num_blocks=num_blocks[run.run_id],
            num_releases=run.num_releases,
            largest_share=largest[run.run_id],
            steps=dict(steps[run.run_id]),
            models=tuple(made.get(run.run_id, ())),
        )
        for run in runs
        if num_blocks[run.run_id] or run.protection != "private"
    )


def _model_facts(origin: ModelOrigin, held: Sequence[BlockHistory]) -> ModelFacts:
    wanted = {run_id for run_id, _ in origin.sources}
    used: list[tuple[BlockHistory, float]] = []
    for each in held:
        cost = sum(charge.spent for charge in each.charges if charge.run_id in wanted)
        if cost:
            used.append((each, cost / each.budget))
    return ModelFacts(
        model=origin.name,
        run_id=origin.run_id,
        epsilon=origin.epsilon,
        delta=origin.delta,
        runs=tuple(sorted(wanted)),
        clients=tuple(sorted({each.block.client for each, _ in used})),
        spans=tuple(sorted({each.block.span for each, _ in used})),
        num_blocks=len(used),
        blocks=tuple(sorted(str(each.block) for each, _ in used)),
        largest_share=max((share for _, share in used), default=0.0),
    )


def _days(histories: Sequence[History]) -> tuple[DayFacts, ...]:
    days: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for history in histories:
        for day in history.days:
            days[day.date][day.step] += day.num_releases
    return tuple(DayFacts(date=date, releases=dict(days[date])) for date in sorted(days))


def _notes_on_users(held: Sequence[BlockHistory]) -> Iterator[str]:
    """Says what a user may pay in all her spans at one client, where the unit is the user."""
    budgets: defaultdict[tuple[str, str, str], Counter[BlockPolicy]] = defaultdict(Counter)
    for each in held:
        if each.unit == "user":
            budgets[each.ledger, each.block.client, each.block.split][each.policy] += 1
    # Divergences of one order add up; of several policies the epsilons do, and the deltas.
    sums = [
        (sum(epsilon_over_blocks(policy, number) for policy, number in found.items()), found)
        for found in budgets.values()
    ]
    if sums:
        epsilon, found = max(sums, key=lambda each: each[0])
        delta = sum(policy.delta for policy in found)
        yield (
            f"A user with records in all {plural(found.total(), 'span')} of a client pays epsilon "
            f"{round_up(epsilon)} at delta {delta:g} at most, over her lifetime: her blocks' budgets add up."
        )


def _scarcest_of_spans(held: Sequence[BlockHistory]) -> list[BlockHistory]:
    scarcest: dict[str, BlockHistory] = {}
    for each in held:
        if each.charges:
            scarcest.setdefault(each.block.span, each)
    return list(scarcest.values())


def _path(history: BlockHistory, runs: Sequence[RunHistory]) -> PathFacts:
    began = {run.run_id: run.began_at for run in runs}
    shares = accumulate(charge.held / history.budget for charge in history.charges)
    return PathFacts(
        block=str(history.block),
        times=tuple(began[charge.run_id] for charge in history.charges),
        shares=tuple(shares),
    )
