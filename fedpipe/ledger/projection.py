"""What follows from the entries: blocks, claims, reservations and releases as tables.

The same rules serve a transaction that appends an entry and a check that replays all of them, so
the tables of an honest ledger are exactly what its entries say.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Table, func, insert, select, text, update

from fedpipe.errors import LedgerError
from fedpipe.files import canonical_json
from fedpipe.ledger import tables
from fedpipe.ledger.blocks import Block, claim_name
from fedpipe.ledger.entries import (
    BlocksCreated,
    Body,
    ClaimClosed,
    ClaimReserved,
    DivisionHeld,
    GapFound,
    HeadWitnessed,
    LedgerMade,
    ReleaseCommitted,
)

# As text: every release asks for it several times, and to compile it costs more than to answer it.
_TOTALS = text(
    "SELECT (SELECT count(*) FROM blocks) AS blocks, (SELECT count(*) FROM claims) AS claims, "
    "(SELECT count(*) FROM claims WHERE state = 'open') AS open, "
    "(SELECT count(*) FROM releases) AS releases, "
    "(SELECT coalesce(sum(committed), 0) FROM queries) AS committed, "
    "(SELECT coalesce(sum(counted), 0) FROM queries) AS counted"
)
_TOTALS_OF_CLAIM = text(
    "SELECT (SELECT count(*) FROM claims WHERE claim = :claim) AS claims, "
    "(SELECT count(*) FROM claims WHERE claim = :claim AND state = 'open') AS open, "
    "(SELECT count(*) FROM releases WHERE claim = :claim) AS releases, "
    "(SELECT coalesce(sum(committed), 0) FROM queries WHERE claim = :claim) AS committed, "
    "(SELECT coalesce(sum(counted), 0) FROM queries WHERE claim = :claim) AS counted"
)


def advance(connection: Connection, body: Body, *, position: int, made_at: str, before: str) -> str:
    """Projects `body`, and returns the totals after it from those before: in no more time as a ledger grows.

    Nobody's edit of the tables gets into the totals this way: it shows when the ledger is next checked.

    Raises:
      LedgerError: as `project`.
    """
    claim = ""
    if isinstance(body, ClaimReserved | ReleaseCommitted | ClaimClosed):
        claim = claim_name(body.run_id, body.client)
    old = _totals_of(connection, claim)
    project(connection, body, position=position, made_at=made_at)
    new = _totals_of(connection, claim)
    sums = {name: value + new.get(name, 0) - old.get(name, 0) for name, value in json.loads(before).items()}
    if isinstance(body, BlocksCreated):
        sums["blocks"] += len(body.blocks)
    return canonical_json(sums)


def _totals_of(connection: Connection, claim: str) -> dict[str, int]:
    if not claim:
        return {}
    row = connection.execute(_TOTALS_OF_CLAIM, {"claim": claim}).mappings().one()
    return {name: int(value) for name, value in row.items()}


def project(connection: Connection, body: Body, *, position: int, made_at: str) -> None:
    """Makes the tables say what the entry at `position` says.

    Raises:
      LedgerError: it contradicts the entries before.
    """
    match body:
        case LedgerMade():
            if position != 1:
                raise LedgerError(f"Expected one beginning, found another at {position}.")
        case DivisionHeld():
            connection.execute(insert(tables.divisions).values(body.model_dump()))
        case BlocksCreated():
            _create_blocks(connection, body, position, made_at)
        case ClaimReserved():
            _reserve(connection, body, position, made_at)
        case ReleaseCommitted():
            _commit(connection, body, made_at)
        case ClaimClosed():
            _close(connection, body)
        case HeadWitnessed():
            connection.execute(insert(tables.witnessed).values(name=body.name, **body.head.model_dump()))
        case GapFound(head=head):
            connection.execute(
                insert(tables.gaps).values(
                    position=position,
                    head_position=head.position,
                    head_digest=head.digest,
                    found_at=made_at,
                )
            )


def totals(connection: Connection) -> str:
    """Returns, as canonical JSON, how much the tables hold.

    Every entry states it, so that whoever opens the ledger can compare cheaply.
    """
    row = connection.execute(_TOTALS).mappings().one()
    return canonical_json({name: int(value) for name, value in row.items()})


def _create_blocks(connection: Connection, body: BlocksCreated, position: int, made_at: str) -> None:
    first = _next_id(connection, tables.blocks)
    shared = {
        "privacy_unit": body.privacy_unit,
        "neighboring_relation": body.neighboring_relation,
        **body.policy.model_dump(),
        "renyi_budget": body.renyi_budget,
        "position": position,
        "created_at": made_at,
    }
    rows = []
    for number, name in enumerate(body.blocks, start=first):
        block = Block.parse(name)
        place = {"client": block.client, "span": block.span, "split": block.split}
        rows.append({"id": number, "block": name, **place, **shared})
    connection.execute(insert(tables.blocks), rows)


def _reserve(connection: Connection, body: ClaimReserved, position: int, made_at: str) -> None:
    claim = claim_name(body.run_id, body.client)
    connection.execute(
        insert(tables.claims).values(
            claim=claim,
            run_id=body.run_id,
            client=body.client,
            terms=body.terms,
            terms_digest=body.terms_digest,
            state="open",
            position=position,
            created_at=made_at,
        )
    )
    if body.queries:
        _reserve_queries(connection, claim, body)


def _reserve_queries(connection: Connection, claim: str, body: ClaimReserved) -> None:
    """Adds the queries of a claim, and what a release of each costs each block that it reads."""
    first = _next_id(connection, tables.queries)
    numbered = list(enumerate(sorted(body.queries.items()), start=first))
    queries = [
        {
            "id": number,
            "claim": claim,
            "query": name,
            "step": query.step,
            "event": canonical_json(query.event),
            "planned": query.planned,
            "committed": 0,
            "counted": query.planned,
        }
        for number, (name, query) in numbered
    ]
    connection.execute(insert(tables.queries), queries)
    costs = [
        {"block": row.id, "query": number, "divergence": query.divergences[row.renyi_order]}
        for row in _rows_of(connection, body.blocks)
        for number, (_, query) in numbered
        if row.split in query.splits
    ]
    if costs:
        connection.execute(insert(tables.reservations), costs)


def _rows_of(connection: Connection, blocks: Sequence[str]) -> list[Any]:
    b = tables.blocks.c
    rows = list(tables.rows_among(connection, select(b.id, b.split, b.renyi_order), b.block, blocks))
    if len(rows) != len(blocks):
        raise LedgerError(f"Expected {len(blocks)} blocks of a claim, found {len(rows)}.")
    return rows


def _commit(connection: Connection, body: ReleaseCommitted, made_at: str) -> None:
    claim = claim_name(body.run_id, body.client)
    q = tables.queries.c
    connection.execute(
        update(tables.queries).where(q.claim == claim, q.step == body.step).values(committed=q.committed + 1)
    )
    connection.execute(
        insert(tables.releases).values(
            claim=claim,
            step=body.step,
            server_round=body.server_round,
            attempt=body.attempt,
            request_digest=body.request_digest,
            reply_digest=body.reply_digest,
            committed_at=made_at,
        )
    )


def _close(connection: Connection, body: ClaimClosed) -> None:
    claim = claim_name(body.run_id, body.client)
    c, q = tables.claims.c, tables.queries.c
    closed = connection.execute(
        update(tables.claims).where(c.claim == claim, c.state == "open").values(state="closed")
    )
    if closed.rowcount != 1:
        raise LedgerError(f"Expected an open claim to close, found none named {claim}.")
    connection.execute(update(tables.queries).where(q.claim == claim).values(counted=q.committed))


def _next_id(connection: Connection, table: Table) -> int:
    return int(connection.execute(select(func.coalesce(func.max(table.c.id), 0))).scalar_one()) + 1
