"""Admission: what claims hold of a block, and whether one more fits into its budget.

A privacy filter at one fixed Renyi order for each block (Feldman and Zrnic 2021,
arXiv:2008.11193): a claim is admitted only if what is held plus all that it may cost stays
within the budget. Nothing is kept as a running total: holdings are summed afresh from planned
and committed counts, so rounding cannot drift (it stays near 1e-15 of the budget). Functions of
an open transaction that holds the ledger's lock, and change nothing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Row, func, select

from fedpipe.errors import BudgetError, ConfigError, LedgerError, Shortfall
from fedpipe.ledger import tables
from fedpipe.ledger.blocks import Block, BlockPolicy
from fedpipe.ledger.entries import ReservedQuery
from fedpipe.privacy import PrivacyPlan, Query, event_to_json
from fedpipe.privacy.accounting import renyi_divergence

MOST_NAMED = 4  # blocks in a message; the shortfalls hold all


@dataclass(frozen=True, kw_only=True)
class Spending:
    """A block's budget and what claims hold of it, as Renyi divergence at its order.

    Of a block `in_gap` it is not known what was spent: all of its budget counts as held.
    """

    block: Block
    policy: BlockPolicy
    budget: float
    held: float
    num_releases: int
    in_gap: bool = False

    @property
    def remaining(self) -> float:
        """What a new claim may still reserve."""
        return max(0.0, self.budget - self.held)


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Where the ledger was last found older than a head that it had signed."""

    position: int
    found_at: str


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a claim asks of one client's blocks: queries, by name, for each split."""

    plan: PrivacyPlan
    blocks: Sequence[Block]
    queries: Mapping[str, Mapping[str, Query]]

    @classmethod
    def make(cls, plan: PrivacyPlan, blocks: Iterable[Block], steps: Iterable[str] | None) -> Demand:
        """Returns what `steps` of `plan` ask, by default all; nothing for a plan without privacy."""
        named = None if steps is None else tuple(steps)
        splits = plan.splits if plan.private else ()
        return cls(
            plan=plan,
            blocks=sorted(set(blocks)) if plan.private else (),
            queries={split: plan.queries_for(split, named) for split in splits},
        )

    def cost(self, split: str, order: int) -> float:
        """Returns the divergence at `order` of all that a block of `split` may pay."""
        return sum(renyi_divergence(query.events, order) for query in self.queries[split].values())

    def reserved(self, orders: Iterable[int]) -> dict[str, ReservedQuery]:
        """Returns every query as an entry says it, for blocks of `orders`."""
        orders = sorted(set(orders))
        named = {name: query for of_split in self.queries.values() for name, query in of_split.items()}
        return {
            name: ReservedQuery(
                step=query.step,
                splits=tuple(split for split in self.queries if name in self.queries[split]),
                event=event_to_json(query.mechanism.event),
                planned=query.mechanism.num_releases,
                divergences={order: renyi_divergence(query.mechanism.event, order) for order in orders},
            )
            for name, query in named.items()
        }


def check_blocks(client: str, demand: Demand) -> None:
    """Raises LedgerError unless the blocks are `client`'s and hold, for each span, every split of the plan.

    A split left out, or one that the plan does not know, would be read and not charged.
    """
    plan = demand.plan
    if not plan.private:
        return
    spans: dict[str, set[str]] = {}
    for block in demand.blocks:
        if block.client != client:
            raise LedgerError(f"Expected blocks of {client}, found {block}.")
        spans.setdefault(block.span, set()).add(block.split)
    if not spans or any(splits != set(plan.splits) for splits in spans.values()):
        raise LedgerError(
            f"Expected the splits {', '.join(plan.splits)} of every span, "
            f"found {sorted(map(str, demand.blocks))}."
        )


def is_divided(connection: Connection, client: str, division: str) -> bool:
    """Returns whether it is known how `client`'s records fall into blocks.

    Raises:
      LedgerError: they did so otherwise before.
    """
    query = select(tables.divisions.c.division).where(tables.divisions.c.client == client)
    held: Sequence[str] = connection.execute(query).scalars().all()
    if held and held != [division]:
        raise LedgerError(
            f"Expected {held[0]}, by which these records were first divided into budgets, found {division}: "
            "keep the first settings."
        )
    return bool(held)


def admit(
    connection: Connection, client: str, demand: Demand, policy: BlockPolicy
) -> tuple[dict[Block, Spending], list[Block]]:
    """Returns what is held of every block of `demand`, and those that are new and begin with `policy`.

    Raises:
      BudgetError: naming every block that cannot afford what is asked.
      LedgerError: for another unit or relation, if a span's records were split otherwise before, or if a
        block begins before the end of a gap.
    """
    rows = _rows_of_spans(connection, client, sorted({block.span for block in demand.blocks}))
    gap = last_gap(connection)
    for row in rows:
        _check_known(row, demand.plan)
    known = {spending.block: spending for spending in (_spending(row, gap) for row in rows)}
    new = [block for block in demand.blocks if block not in known]
    for block in new:
        _check_new(block, gap)
        known[block] = Spending(
            block=block, policy=policy, budget=policy.renyi_budget, held=0.0, num_releases=0
        )
    _check_budgets([known[block] for block in demand.blocks], demand)
    return known, new


def last_gap(connection: Connection) -> Gap | None:
    """Returns the newest gap that was found."""
    row = connection.execute(
        select(tables.gaps).order_by(tables.gaps.c.position.desc()).limit(1)
    ).one_or_none()
    return None if row is None else Gap(position=row.position, found_at=row.found_at)


def all_spending(connection: Connection) -> list[Spending]:
    """Returns what claims hold of every block, in order."""
    gap = last_gap(connection)
    return [_spending(row, gap) for row in connection.execute(_holdings().order_by(tables.blocks.c.block))]


def _check_known(row: Row[Any], plan: PrivacyPlan) -> None:
    if row.split not in plan.splits:
        raise LedgerError(
            f"Expected split {row.split} of {row.client}/{row.span} as before, found "
            f"{', '.join(plan.splits)}: a record in two blocks would have two budgets. Keep the schema's "
            "key as it was."
        )
    if (row.privacy_unit, row.neighboring_relation) != (plan.unit, plan.neighboring_relation):
        raise LedgerError(
            f"Expected events of unit {row.privacy_unit} under {row.neighboring_relation} on block "
            f"{row.block}, found {plan.unit} under {plan.neighboring_relation}."
        )


def _check_new(block: Block, gap: Gap | None) -> None:
    """An unknown block may have been spent in the gap, unless no record of it existed then."""
    if gap is None:
        return
    from fedpipe.data.spans import nominal_window  # heavy: fedpipe.data reads tables

    try:
        begins = nominal_window(block.span)[0]
    except ConfigError:
        begins = dt.date.min
    if begins <= dt.datetime.fromisoformat(gap.found_at).date():
        raise LedgerError(
            f"Expected a span that begins after {gap.found_at[:10]}, when this ledger was found to have "
            f"forgotten what was spent, found block {block}."
        )


def _check_budgets(held: Sequence[Spending], demand: Demand) -> None:
    kinds = {(spending.block.split, spending.policy.renyi_order) for spending in held}
    costs = {kind: demand.cost(*kind) for kind in kinds}
    short: list[tuple[Spending, float]] = []
    for spending in held:
        requested = costs[spending.block.split, spending.policy.renyi_order]
        if not requested <= spending.remaining:  # so that no NaN is ever admitted
            short.append((spending, requested))
    if short:
        raise BudgetError(_refusal(short), [_shortfall(spending, requested) for spending, requested in short])


def _holdings() -> Any:
    """Selects every block with what claims hold of it."""
    r, q = tables.reservations.c, tables.queries.c
    return (
        select(
            tables.blocks,
            func.coalesce(func.sum(q.counted * r.divergence), 0.0).label("held"),
            func.coalesce(func.sum(q.committed), 0).label("num_releases"),
        )
        .select_from(tables.blocks.outerjoin(tables.reservations).outerjoin(tables.queries))
        .group_by(tables.blocks.c.id)
    )


def _rows_of_spans(connection: Connection, client: str, spans: Sequence[str]) -> list[Row[Any]]:
    b = tables.blocks.c
    of_client = _holdings().where(b.client == client)
    return list(tables.rows_among(connection, of_client, b.span, spans))


def _spending(row: Row[Any], gap: Gap | None) -> Spending:
    in_gap = gap is not None and row.position < gap.position
    return Spending(
        block=Block(client=row.client, span=row.span, split=row.split),
        policy=policy_of(row),
        budget=row.renyi_budget,
        held=max(float(row.held), row.renyi_budget) if in_gap else float(row.held),
        num_releases=int(row.num_releases),
        in_gap=in_gap,
    )


def policy_of(row: Row[Any]) -> BlockPolicy:
    """Returns the policy in a row of the table of blocks."""
    return _policy(row.epsilon, row.delta, row.reserved_delta, row.renyi_order)


@lru_cache(maxsize=1024)
def _policy(epsilon: float, delta: float, reserved_delta: float, renyi_order: int) -> BlockPolicy:
    # Blocks are many and policies few.
    return BlockPolicy(epsilon=epsilon, delta=delta, reserved_delta=reserved_delta, renyi_order=renyi_order)


def _refusal(short: Sequence[tuple[Spending, float]]) -> str:
    spending, requested = max(short, key=lambda each: each[1] - each[0].remaining)
    policy, difference = spending.policy, requested - spending.remaining
    names = sorted(str(each.block) for each, _ in short)
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return (
        f"Expected a claim within the budget of block {spending.block}. "
        f"Requested: {requested:.4g}, remaining: {spending.remaining:.4g}, difference: {difference:.4g} "
        # The conversion at a fixed order adds a constant, so the difference is one of epsilons as well.
        f"(Renyi divergence at order {policy.renyi_order}; with this run the block would be at epsilon "
        f"{policy.epsilon + difference:.4g} for delta {policy.delta:g}, over its lifetime budget of "
        f"{policy.epsilon:.4g}). "
        f"Blocks that refuse: {', '.join(names[:MOST_NAMED])}{more}. Nothing was changed."
    )


def _shortfall(spending: Spending, requested: float) -> Shortfall:
    return Shortfall(
        block=str(spending.block),
        split=spending.block.split,
        requested=requested,
        remaining=spending.remaining,
        renyi_order=spending.policy.renyi_order,
        epsilon=spending.policy.epsilon,
        delta=spending.policy.delta,
    )
