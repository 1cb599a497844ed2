"""What a run has spent, step by step, as the ledger counted it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from dp_accounting import dp_event
from dp_accounting.dp_event import DpEvent
from sqlalchemy import Connection, func, select

from fedpipe.ledger import tables
from fedpipe.privacy import event_from_json


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """The releases of one step over all clients, and the events that the block which paid most has paid."""

    num_releases: int
    events: tuple[DpEvent, ...] = field(default=())


def run_costs(connection: Connection, run_id: str) -> dict[str, StepCost]:
    """Returns the cost of each step of the run that released anything."""
    counts = _num_releases(connection, run_id)
    dearest = _dearest_blocks(connection, run_id)
    return {
        step: StepCost(num_releases=count, events=_events(connection, run_id, step, dearest.get(step)))
        for step, count in counts.items()
    }


def _num_releases(connection: Connection, run_id: str) -> dict[str, int]:
    query = (
        select(tables.releases.c.step, func.count().label("number"))
        .select_from(tables.releases.join(tables.claims))
        .where(tables.claims.c.run_id == run_id)
        .group_by(tables.releases.c.step)
    )
    return {str(row.step): int(row.number) for row in connection.execute(query)}


def _dearest_blocks(connection: Connection, run_id: str) -> dict[str, int]:
    """Returns, by step, the block on which the run's committed divergences add up to most."""
    r, q = tables.reservations.c, tables.queries.c
    total = func.sum(q.committed * r.divergence).label("total")
    query = (
        select(q.step, r.block, total)
        .select_from(tables.reservations.join(tables.queries).join(tables.claims))
        .where(tables.claims.c.run_id == run_id, q.committed > 0)
        .group_by(q.step, r.block)
        .order_by(total, r.block)
    )
    return {str(row.step): int(row.block) for row in connection.execute(query)}  # the largest comes last


def _events(connection: Connection, run_id: str, step: str, block: int | None) -> tuple[DpEvent, ...]:
    r, q = tables.reservations.c, tables.queries.c
    query = (
        select(q.event, q.committed)
        .select_from(tables.reservations.join(tables.queries).join(tables.claims))
        .where(tables.claims.c.run_id == run_id, q.step == step, r.block == block, q.committed > 0)
        .order_by(q.query)
    )
    return tuple(
        dp_event.SelfComposedDpEvent(event_from_json(json.loads(row.event)), row.committed)
        for row in connection.execute(query)
    )
