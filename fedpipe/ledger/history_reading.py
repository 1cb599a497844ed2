"""Reads a ledger's history from its tables, in one consistent state, and holds up no writer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, func, select

from fedpipe.ledger import tables
from fedpipe.ledger.admission import Gap, last_gap, policy_of
from fedpipe.ledger.blocks import Block
from fedpipe.ledger.history import (
    BlockHistory,
    DayOfReleases,
    History,
    Protection,
    RunCharge,
    RunHistory,
    StepCharge,
)
from fedpipe.ledger.reading import ledger_name, open_for_reading

SEEDED = '%"randomness":"seeded"%'


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which blocks to read: those of one client, of some spans, or all."""

    client: str | None = None
    spans: frozenset[str] = frozenset()

    def of_blocks(self) -> list[ColumnElement[bool]]:
        """Returns the conditions on the table of blocks."""
        b = tables.blocks.c
        chosen = [b.client == self.client] if self.client is not None else []
        return [*chosen, b.span.in_(sorted(self.spans))] if self.spans else chosen

    def of_claims(self) -> list[ColumnElement[bool]]:
        """Returns the conditions on the table of claims: a release is made for all of its claim's spans."""
        return [tables.claims.c.client == self.client] if self.client is not None else []


def read_history(location: str | Path, choice: Choice | None = None) -> History:
    """Returns the history of the ledger at `location`: a file, or a database's URL.

    Raises:
      LedgerError: there is no ledger, or it cannot be read.
    """
    chosen, ledger = choice or Choice(), ledger_name(location)
    with open_for_reading(location) as connection:
        runs = _runs(connection, chosen)
        order = {run.run_id: place for place, run in enumerate(runs)}
        charges, gap = _charges(connection, chosen), last_gap(connection)
        blocks = [
            _block(ledger, row, charges.get(row.id, ()), order, gap)
            for row in connection.execute(select(tables.blocks).where(*chosen.of_blocks()))
        ]
        blocks.sort(key=lambda each: each.block)
        return History(
            ledger=ledger,
            blocks=tuple(blocks),
            runs=runs,
            steps=_steps(connection, chosen),
            days=_days(connection, chosen),
        )


def read_events(location: str | Path, blocks: Sequence[Block]) -> dict[Block, Mapping[str, int]]:
    """Returns, for each of `blocks`, the events that it holds as JSON text, each with its number of releases.

    Made and reserved releases count alike.
    """
    found: dict[str, dict[str, int]] = {str(block): {} for block in blocks}
    b, q = tables.blocks.c, tables.queries.c
    query = (
        select(b.block, q.event, func.sum(q.counted))
        .select_from(tables.reservations.join(tables.blocks).join(tables.queries))
        .where(q.counted > 0)
        .group_by(b.block, q.event)
    )
    with open_for_reading(location) as connection:
        for block, event, counted in tables.rows_among(connection, query, b.block, list(found)):
            found[block][event] = int(counted)
    return {block: found[str(block)] for block in blocks}


def client_names(location: str | Path) -> list[str]:
    """Returns the clients that have blocks in the ledger, in order."""
    with open_for_reading(location) as connection:
        column = tables.blocks.c.client
        return list(connection.execute(select(column).distinct().order_by(column)).scalars())


def _block(
    ledger: str, row: Row[Any], charges: Collection[_Charge], order: Mapping[str, int], gap: Gap | None
) -> BlockHistory:
    # A claim of a client that is not listed cannot be: blocks and claims are filtered by the same client.
    listed = sorted(charges, key=lambda each: order.get(each[0].run_id, -1))
    return BlockHistory(
        ledger=ledger,
        block=Block(client=row.client, span=row.span, split=row.split),
        policy=policy_of(row),
        unit=row.privacy_unit,
        neighboring_relation=row.neighboring_relation,
        budget=row.renyi_budget,
        charges=tuple(charge for charge, _ in listed),
        num_releases=sum(number for _, number in listed),
        in_gap=gap is not None and row.position < gap.position,
    )


def _rows(connection: Connection, query: Select[Any]) -> Iterable[Any]:
    return connection.execute(query)


_Charge = tuple[RunCharge, int]


def _charges(connection: Connection, choice: Choice) -> dict[int, list[_Charge]]:
    """Returns what each claim took of each block, by the block's number, with its number of releases."""
    r, q = tables.reservations.c, tables.queries.c
    runs = _claims(connection, choice)
    source: Any = tables.reservations.join(tables.queries)
    if choice.of_blocks():
        source = source.join(tables.blocks, r.block == tables.blocks.c.id)
    query = (
        select(
            q.claim,
            r.block,
            func.sum(q.committed * r.divergence),
            func.sum((q.counted - q.committed) * r.divergence),
            func.sum(q.committed),
        )
        .select_from(source)
        .where(*choice.of_blocks())
        .group_by(q.claim, r.block)
    )
    found: defaultdict[int, list[_Charge]] = defaultdict(list)
    for claim, block, spent, unmade, number in _rows(connection, query):
        charge = RunCharge(run_id=runs[claim], spent=float(spent), reserved=float(unmade))
        if charge.held:
            found[block].append((charge, int(number)))
    return found


def _claims(connection: Connection, choice: Choice) -> dict[str, str]:
    c = tables.claims.c
    query = select(c.claim, c.run_id).where(*choice.of_claims())
    return {row.claim: row.run_id for row in _rows(connection, query)}


def _runs(connection: Connection, choice: Choice) -> tuple[RunHistory, ...]:
    c = tables.claims.c
    released = _released(connection, choice)
    charged: set[str] = set(connection.execute(select(tables.queries.c.claim).distinct()).scalars())
    is_seeded = c.terms.like(SEEDED).label("is_seeded")
    query = select(c.claim, c.run_id, c.client, c.state, c.created_at, is_seeded)
    claims: defaultdict[str, list[Row[Any]]] = defaultdict(list)
    for row in connection.execute(query.where(*choice.of_claims())):
        claims[row.run_id].append(row)
    found = [_run(run_id, rows, released, charged) for run_id, rows in claims.items()]
    return tuple(sorted(found, key=lambda run: (run.began_at, run.run_id)))


def _run(
    run_id: str,
    claims: Sequence[Row[Any]],
    released: Mapping[str, tuple[int, str]],
    charged: Collection[str],
) -> RunHistory:
    made = [released[row.claim] for row in claims if row.claim in released]
    uncharged = any(row.claim in released and row.claim not in charged for row in claims)
    seeded: Protection = "seeded" if any(row.is_seeded for row in claims) else "private"
    return RunHistory(
        run_id=run_id,
        began_at=min(row.created_at for row in claims),
        last_release_at=max((last for _, last in made), default=None),
        num_releases=sum(number for number, _ in made),
        clients=tuple(sorted(row.client for row in claims)),
        is_open=any(row.state == "open" for row in claims),
        protection="NOT PRIVATE" if uncharged else seeded,
    )


def _released(connection: Connection, choice: Choice) -> dict[str, tuple[int, str]]:
    """Returns how many releases each claim made, and when the last."""
    c = tables.releases.c
    query = select(c.claim, func.count(), func.max(c.committed_at)).group_by(c.claim)
    if choice.of_claims():
        query = query.select_from(tables.releases.join(tables.claims)).where(*choice.of_claims())
    return {claim: (int(number), str(last)) for claim, number, last in _rows(connection, query)}


def _steps(connection: Connection, choice: Choice) -> tuple[StepCharge, ...]:
    r, b, q, c = tables.reservations.c, tables.blocks.c, tables.queries.c, tables.claims.c
    shares = func.sum(q.committed * r.divergence / b.renyi_budget)
    query = (
        select(c.run_id, q.step, b.span, shares)
        .select_from(tables.reservations.join(tables.blocks).join(tables.queries).join(tables.claims))
        .where(q.committed > 0, *choice.of_blocks())
        .group_by(c.run_id, q.step, b.span)
    )
    return tuple(
        StepCharge(run_id=run_id, step=step, span=span, shares=float(shares))
        for run_id, step, span, shares in _rows(connection, query)
    )


def _days(connection: Connection, choice: Choice) -> tuple[DayOfReleases, ...]:
    c = tables.releases.c
    day = func.substr(c.committed_at, 1, 10).label("day")
    query = select(day, c.step, func.count()).group_by(day, c.step).order_by(day, c.step)
    if choice.of_claims():
        query = query.select_from(tables.releases.join(tables.claims)).where(*choice.of_claims())
    return tuple(
        DayOfReleases(date=date, step=step, num_releases=int(number))
        for date, step, number in _rows(connection, query)
    )
