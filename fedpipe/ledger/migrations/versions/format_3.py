"""The state of a ledger without a chain becomes the first entries of one.

Nothing is forgotten: blocks keep their budgets and orders, claims all that they reserved and
released, open ones stay open, and replies that are still kept stay kept.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import groupby
from operator import attrgetter
from typing import Any

import sqlalchemy as sa
from alembic import context, op

from fedpipe.errors import LedgerError
from fedpipe.files import sha256
from fedpipe.ledger import entries, tables
from fedpipe.ledger.blocks import Block, BlockPolicy
from fedpipe.ledger.chain import Chain

revision = "3"
down_revision = "2"

OLD = ("releases", "reservations", "claims", "blocks", "divisions")
Rows = dict[str, list[Any]]


def upgrade() -> None:
    """Reads all, drops the old tables, and appends what they said to a new chain."""
    connection = op.get_bind()
    old: Rows = {name: list(connection.execute(sa.text(f"SELECT * FROM {name}"))) for name in OLD}  # noqa: S608
    for name in OLD:
        op.drop_table(name)
    tables.metadata.create_all(connection)
    make_chain: Callable[[], Chain] = context.config.attributes["chain"]
    chain = make_chain()
    for made_at, body in _history(old):
        chain.append(body, made_at)
    for row in old["releases"]:
        if row.reply is not None:
            kept = {
                name: getattr(row, name) for name in ("claim", "step", "server_round", "attempt", "reply")
            }
            connection.execute(sa.insert(tables.replies).values(kept))


def _history(old: Rows) -> Iterator[tuple[str | None, entries.Body]]:
    """Returns what happened, each with its time, in an order in which it can have happened."""
    for row in old["divisions"]:
        yield None, entries.DivisionHeld(client=row.client, division=row.division)
    yield from _blocks(old["blocks"])
    released: dict[str, list[Any]] = defaultdict(list)
    for row in sorted(old["releases"], key=attrgetter("committed_at", "server_round", "attempt")):
        released[row.claim].append(row)
    reserved: dict[str, list[Any]] = defaultdict(list)
    for row in old["reservations"]:
        reserved[row.claim].append(row)
    orders = {row.block: row.renyi_order for row in old["blocks"]}
    for claim in sorted(old["claims"], key=attrgetter("created_at", "claim")):
        yield claim.created_at, _claim(claim, reserved[claim.claim], orders)
        for row in released[claim.claim]:
            yield row.committed_at, _release(claim, row)
        if claim.state != "open":
            yield None, entries.ClaimClosed(run_id=claim.run_id, client=claim.client)


_POLICY = attrgetter(
    "created_at",
    "privacy_unit",
    "neighboring_relation",
    "epsilon",
    "delta",
    "renyi_order",
    "renyi_budget",
)


def _blocks(rows: list[Any]) -> Iterator[tuple[str | None, entries.Body]]:
    for (made_at, unit, relation, epsilon, delta, order, budget), alike in groupby(
        sorted(rows, key=_POLICY), key=_POLICY
    ):
        yield (
            made_at,
            entries.BlocksCreated(
                blocks=tuple(sorted(row.block for row in alike)),
                privacy_unit=unit,
                neighboring_relation=relation,
                policy=BlockPolicy(epsilon=epsilon, delta=delta, renyi_order=order),
                renyi_budget=budget,
            ),
        )


def _claim(claim: Any, rows: list[Any], orders: dict[str, int]) -> entries.ClaimReserved:
    by_query: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        by_query[row.query].append(row)
    return entries.ClaimReserved(
        run_id=claim.run_id,
        client=claim.client,
        terms=claim.terms,
        terms_digest=claim.terms_digest,
        blocks=tuple(sorted({row.block for row in rows})),
        queries={name: _query(alike, orders) for name, alike in by_query.items()},
    )


def _query(alike: list[Any], orders: dict[str, int]) -> entries.ReservedQuery:
    first = alike[0]
    if any((row.step, row.event, row.planned) != (first.step, first.event, first.planned) for row in alike):
        raise LedgerError(f"Expected one event of query {first.query} in claim {first.claim}, found others.")
    return entries.ReservedQuery(
        step=first.step,
        splits=tuple(sorted({Block.parse(row.block).split for row in alike})),
        event=json.loads(first.event),
        planned=first.planned,
        divergences={orders[row.block]: row.divergence for row in alike},
    )


def _release(claim: Any, row: Any) -> entries.ReleaseCommitted:
    return entries.ReleaseCommitted(
        run_id=claim.run_id,
        client=claim.client,
        step=row.step,
        server_round=row.server_round,
        attempt=row.attempt,
        request_digest=row.request_digest,
        # Of replies that were dropped nothing is left, not even their digest.
        reply_digest="" if row.reply is None else sha256(row.reply),
    )
