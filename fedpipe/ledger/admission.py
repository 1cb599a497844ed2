"""Admission: what claims hold of a block, and whether one more fits into its budget.

A privacy filter at one fixed Renyi order for each block (Feldman and Zrnic 2021,
arXiv:2008.11193): a claim is admitted only if what is held plus all that it may cost stays
within the budget. Nothing is kept as a running total: holdings are summed afresh from planned
and committed counts, so rounding cannot drift (it stays near 1e-15 of the budget). Functions of
an open transaction that holds the write lock; whoever opened it commits, or undoes everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, case, func, insert, select

from fedpipe.errors import BudgetError, LedgerError, Shortfall
from fedpipe.files import canonical_json
from fedpipe.ledger import tables
from fedpipe.ledger.blocks import Block, BlockPolicy
from fedpipe.privacy import PrivacyPlan, Query, event_to_json
from fedpipe.privacy.accounting import renyi_divergence

MOST_NAMED = 4  # blocks in a message; the shortfalls hold all


@dataclass(frozen=True, kw_only=True)
class Spending:
    """A block's budget and what claims hold of it, as Renyi divergence at its order."""

    block: Block
    policy: BlockPolicy
    budget: float
    held: float
    num_releases: int

    @property
    def remaining(self) -> float:
        """What a new claim may still reserve."""
        return max(0.0, self.budget - self.held)


def check_blocks(client: str, blocks: Iterable[Block], plan: PrivacyPlan) -> None:
    """Raises LedgerError unless `blocks` are `client`'s and hold, for each span, every split of `plan`.

    A split left out, or one that the plan does not know, would be read and not charged.
    """
    spans: dict[str, set[str]] = {}
    for block in blocks:
        if block.client != client:
            raise LedgerError(f"Expected blocks of {client}, found {block}.")
        spans.setdefault(block.span, set()).add(block.split)
    if not spans or any(splits != set(plan.splits) for splits in spans.values()):
        raise LedgerError(
            f"Expected the splits {', '.join(plan.splits)} of every span, found {sorted(map(str, blocks))}."
        )


def hold_division(connection: Connection, client: str, division: str) -> None:
    """Fixes how `client`'s records fall into blocks; raises LedgerError if they did so otherwise before."""
    of_client = tables.divisions.c.client == client
    held: Sequence[str] = (
        connection.execute(select(tables.divisions.c.division).where(of_client)).scalars().all()
    )
    if not held:
        connection.execute(insert(tables.divisions).values(client=client, division=division))
    elif held != [division]:
        raise LedgerError(
            f"Expected {held[0]}, by which these records were first divided into budgets, found {division}: "
            "keep the first settings."
        )


def register_block(
    connection: Connection, block: Block, plan: PrivacyPlan, policy: BlockPolicy, now: str
) -> None:
    """Creates `block` with `policy` unless it is known; a known one keeps its own.

    Raises:
      LedgerError: for another unit or relation, or if the span's records were split otherwise before.
    """
    of_span = (tables.blocks.c.client == block.client, tables.blocks.c.span == block.span)
    known = {row.split: row for row in connection.execute(select(tables.blocks).where(*of_span))}
    if known.keys() - set(plan.splits):
        raise LedgerError(
            f"Expected blocks {sorted(known)} of {block.client}/{block.span} as before, found {block.split}: "
            "a record in two blocks would have two budgets. Keep the schema's key as it was."
        )
    if block.split not in known:
        connection.execute(insert(tables.blocks).values(**_block_row(block, plan, policy, now)))
        return
    row = known[block.split]
    if (row.privacy_unit, row.neighboring_relation) != (plan.unit, plan.neighboring_relation):
        raise LedgerError(
            f"Expected events of unit {row.privacy_unit} under {row.neighboring_relation} on block {block}, "
            f"found {plan.unit} under {plan.neighboring_relation}."
        )


def check_budgets(connection: Connection, wanted: Iterable[tuple[Block, Mapping[str, Query]]]) -> None:
    """Raises BudgetError, naming every block of `wanted` whose queries may cost more than remains of it."""
    short: list[tuple[Spending, float]] = []
    for block, queries in wanted:
        spending = block_spending(connection, block)
        order = spending.policy.renyi_order
        requested = sum(renyi_divergence(query.events, order) for query in queries.values())
        if not requested <= spending.remaining:  # so that no NaN is ever admitted
            short.append((spending, requested))
    if short:
        raise BudgetError(_refusal(short), [_shortfall(spending, requested) for spending, requested in short])


def reserve_block(connection: Connection, claim: str, block: Block, queries: Mapping[str, Query]) -> None:
    """Reserves on `block` all that `queries` may cost it; `check_budgets` comes first."""
    order = block_spending(connection, block).policy.renyi_order
    for name, query in queries.items():
        connection.execute(
            insert(tables.reservations).values(**_reservation(claim, block, name, query, order))
        )


def block_spending(connection: Connection, block: Block) -> Spending:
    """Returns what claims hold of one registered block."""
    return _spending(connection.execute(_holdings().where(tables.blocks.c.block == str(block))).one())


def all_spending(connection: Connection) -> list[Spending]:
    """Returns what claims hold of every block, in order."""
    return [_spending(row) for row in connection.execute(_holdings().order_by(tables.blocks.c.block))]


def reserved(connection: Connection, claim: str) -> set[tuple[str, str]]:
    """Returns the (block, query) pairs for which `claim` holds reservations."""
    r = tables.reservations.c
    rows = connection.execute(select(r.block, r.query).where(r.claim == claim))
    return {(row.block, row.query) for row in rows}


def _holdings() -> Any:
    """Selects every block with what claims hold: all that is planned, or once closed what was committed."""
    r, c = tables.reservations.c, tables.claims.c
    counted = case((c.state == "open", r.planned), else_=r.committed)
    return (
        select(
            tables.blocks,
            func.coalesce(func.sum(counted * r.divergence), 0.0).label("held"),
            func.coalesce(func.sum(r.committed), 0).label("num_releases"),
        )
        .select_from(tables.blocks.outerjoin(tables.reservations).outerjoin(tables.claims))
        .group_by(tables.blocks.c.block)
    )


def _spending(row: Row[Any]) -> Spending:
    return Spending(
        block=Block(client=row.client, span=row.span, split=row.split),
        policy=BlockPolicy(epsilon=row.epsilon, delta=row.delta, renyi_order=row.renyi_order),
        budget=row.renyi_budget,
        held=float(row.held),
        num_releases=int(row.num_releases),
    )


def _block_row(block: Block, plan: PrivacyPlan, policy: BlockPolicy, now: str) -> dict[str, Any]:
    return {
        "block": str(block),
        "client": block.client,
        "span": block.span,
        "split": block.split,
        "privacy_unit": plan.unit,
        "neighboring_relation": plan.neighboring_relation,
        "epsilon": policy.epsilon,
        "delta": policy.delta,
        "renyi_order": policy.renyi_order,
        "renyi_budget": policy.renyi_budget,
        "created_at": now,
    }


def _reservation(claim: str, block: Block, name: str, query: Query, order: int) -> dict[str, Any]:
    event = query.mechanism.event
    return {
        "claim": claim,
        "block": str(block),
        "query": name,
        "step": query.step,
        "event": canonical_json(event_to_json(event)),
        "divergence": renyi_divergence(event, order),
        "planned": query.mechanism.num_releases,
        "committed": 0,
    }


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
