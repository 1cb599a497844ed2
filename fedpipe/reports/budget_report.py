"""From ledgers' histories to the facts of a budget report."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fedpipe.ledger.blocks import Block, BlockPolicy, epsilon_over_blocks
from fedpipe.ledger.history import BlockHistory, History
from fedpipe.reports.budget_facts import BlockFacts, BudgetReport, GroupFacts, ModelFacts
from fedpipe.reports.budget_forecast import forecasts, retrainings_left
from fedpipe.reports.budget_runs import day_facts, join_runs, path_facts, run_facts, step_facts
from fedpipe.reports.running_epsilon import ReadEvents, RunningEpsilons
from fedpipe.reports.wording import plural, round_up

NUM_PATHS = 8

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
      read_events: from a ledger's name and some of its blocks to their events; see `ledger.history_reading`.
      made_at: ISO 8601.
      origins: versions whose lineage is known.
      client: whose records the report is about, if it is one client's.
    """
    held = sorted((each for history in histories for each in history.blocks), key=_scarcity)
    exact = RunningEpsilons.read(held, read_events)
    made = _models_by_run(origins)
    blocks = tuple(_block_facts(each, exact.epsilon(each), made) for each in held)
    runs = join_runs(histories)
    told = run_facts(histories, runs, held, made)
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
        num_runs=len(told),
        num_releases=sum(run.num_releases for run in told),
        num_in_gap=sum(each.in_gap for each in blocks),
        forecasts=tuple(forecasts(spans)),
        clients=tuple(_groups(blocks, lambda each: each.client)),
        spans=tuple(spans),
        steps=step_facts(histories, len(blocks)),
        runs=told,
        models=tuple(_model_facts(origin, held) for origin in origins),
        days=day_facts(histories),
        curves=tuple(exact.curves(held)),
        paths=tuple(path_facts(each, runs) for each in _scarcest_of_spans(held)[:NUM_PATHS]),
        blocks=blocks,
        notes=(*NOTES, *_notes_on_users(held)),
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
        retrainings_left=retrainings_left(history),
    )


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
