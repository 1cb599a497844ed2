"""Claims in an open transaction: reserved as a whole, committed release by release, closed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select

from fedpipe.errors import BudgetError, LedgerError
from fedpipe.files import sha256
from fedpipe.ledger import tables
from fedpipe.ledger.admission import Demand, admit, is_divided, last_gap
from fedpipe.ledger.blocks import Block, BlockPolicy, claim_name
from fedpipe.ledger.chain import Chain
from fedpipe.ledger.entries import BlocksCreated, ClaimClosed, ClaimReserved, DivisionHeld, ReleaseCommitted
from fedpipe.privacy import PrivacyPlan


@dataclass(frozen=True, kw_only=True)
class ReleaseId:
    """What a release answers: one request of one run. A retry that draws fresh noise is a new attempt."""

    run_id: str
    client: str
    step: str
    server_round: int = 0
    attempt: int = 0

    @property
    def claim(self) -> str:
        """The claim that pays."""
        return claim_name(self.run_id, self.client)

    def row(self) -> dict[str, Any]:
        """The columns that identify it."""
        return {
            "claim": self.claim,
            "step": self.step,
            "server_round": self.server_round,
            "attempt": self.attempt,
        }


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Whose claim it is, and what she agreed to."""

    run_id: str
    client: str
    terms: str
    terms_digest: str

    @property
    def claim(self) -> str:
        """The claim's name."""
        return claim_name(self.run_id, self.client)


def reserve(
    chain: Chain, agreement: Agreement, demand: Demand, *, policy: BlockPolicy, division: str
) -> None:
    """Reserves all of `demand`, unless the claim is known; see `Ledger.reserve`."""
    if _is_adopted(chain.connection, agreement, demand):
        return
    orders: set[int] = set()
    if demand.plan.private:
        if not is_divided(chain.connection, agreement.client, division):
            chain.append(DivisionHeld(client=agreement.client, division=division))
        held, new = admit(chain.connection, agreement.client, demand, policy)
        if new:
            chain.append(_created(new, demand.plan, policy))
        orders = {held[block].policy.renyi_order for block in demand.blocks}
    chain.append(
        ClaimReserved(
            run_id=agreement.run_id,
            client=agreement.client,
            terms=agreement.terms,
            terms_digest=agreement.terms_digest,
            blocks=tuple(map(str, demand.blocks)),
            queries=demand.reserved(orders),
        )
    )


def _created(blocks: Sequence[Block], plan: PrivacyPlan, policy: BlockPolicy) -> BlocksCreated:
    return BlocksCreated(
        blocks=tuple(map(str, blocks)),
        privacy_unit=plan.unit,
        neighboring_relation=plan.neighboring_relation,
        policy=policy,
        renyi_budget=policy.renyi_budget,
    )


def _is_adopted(connection: Connection, agreement: Agreement, demand: Demand) -> bool:
    row = claim_row(connection, agreement.claim)
    if row is None:
        return False
    if row.terms_digest != agreement.terms_digest:
        raise LedgerError(
            f"Expected the terms that claim {row.claim} was made with, found others: start a new run "
            "with --fresh."
        )
    if row.state != "open":
        raise LedgerError(f"Expected an open claim, found {row.claim} closed: start a new run with --fresh.")
    pairs = {(str(block), name) for block in demand.blocks for name in demand.queries[block.split]}
    if _reserved(connection, row.claim) != pairs:
        raise LedgerError(
            f"Expected the blocks and steps that claim {row.claim} was made for, found others: start a new "
            "run with --fresh."
        )
    if pairs:
        _check_remembered(connection, row)
    return True


def _check_remembered(connection: Connection, claim: Row[Any]) -> None:
    gap = last_gap(connection)
    if gap is not None and claim.position < gap.position:
        raise LedgerError(
            f"Expected a claim made after {gap.found_at[:10]}, when this ledger was found to have forgotten "
            f"what was spent, found {claim.claim}: start a new run with --fresh."
        )


def _reserved(connection: Connection, claim: str) -> set[tuple[str, str]]:
    """Returns the (block, query) pairs for which `claim` holds reservations."""
    query = (
        select(tables.blocks.c.block, tables.queries.c.query)
        .select_from(tables.queries.join(tables.reservations).join(tables.blocks))
        .where(tables.queries.c.claim == claim)
    )
    return {(row.block, row.query) for row in connection.execute(query)}


def commit(chain: Chain, release: ReleaseId, *, request_digest: str, reply: bytes, charged: bool) -> None:
    """Counts a release and keeps its reply; see `Ledger.commit`."""
    claim = claim_row(chain.connection, release.claim)
    if claim is None or claim.state != "open":
        raise LedgerError(f"Expected an open claim for run {release.run_id}, found none.")
    if release_row(chain.connection, release) is not None:
        raise LedgerError("Expected a new release, found its identity already used.")
    _check_planned(chain.connection, release, claim, charged)
    chain.append(
        ReleaseCommitted(
            run_id=release.run_id,
            client=release.client,
            step=release.step,
            server_round=release.server_round,
            attempt=release.attempt,
            request_digest=request_digest,
            reply_digest=sha256(reply),
        )
    )
    # First those of before: the new one takes their place in the file.
    forget_replies(chain.connection, release.claim, step=release.step, before=release.server_round)
    chain.connection.execute(insert(tables.replies).values(**release.row(), reply=reply))


def _check_planned(connection: Connection, release: ReleaseId, claim: Row[Any], charged: bool) -> None:
    """Raises BudgetError unless every query of the step has a planned release left."""
    q = tables.queries.c
    rows = connection.execute(select(q.step, q.planned, q.committed).where(q.claim == release.claim)).all()
    if not charged:
        if rows:
            raise LedgerError("Expected a charged release of a run with privacy, found an uncharged one.")
        return
    _check_remembered(connection, claim)
    of_step = [row for row in rows if row.step == release.step]
    if not of_step or any(row.committed >= row.planned for row in of_step):
        raise BudgetError(
            f"Expected a release that the plan allows, found {release.step} round {release.server_round}: "
            "all planned releases of this step were made."
        )


def close(chain: Chain, run_id: str, client: str) -> bool:
    """Ends a claim; see `Ledger.close`."""
    claim = claim_name(run_id, client)
    row = claim_row(chain.connection, claim)
    if row is not None and row.state == "open":
        chain.append(ClaimClosed(run_id=run_id, client=client))
        forget_replies(chain.connection, claim)
    return row is not None


def claim_row(connection: Connection, claim: str) -> Row[Any] | None:
    """Returns the claim of that name."""
    return connection.execute(select(tables.claims).where(tables.claims.c.claim == claim)).one_or_none()


def release_row(connection: Connection, release: ReleaseId) -> Row[Any] | None:
    """Returns what is known of a release."""
    query = select(tables.releases).filter_by(**release.row())
    return connection.execute(query).one_or_none()


def kept_reply(connection: Connection, release: ReleaseId) -> bytes | None:
    """Returns what was sent, if it is still kept."""
    query = select(tables.replies.c.reply).filter_by(**release.row())
    found: bytes | None = connection.execute(query).scalar_one_or_none()
    return None if found is None else bytes(found)


def forget_replies(
    connection: Connection, claim: str, *, step: str | None = None, before: int | None = None
) -> None:
    """Drops the replies of a claim: all of them, or those of a step that are older than a round."""
    r = tables.replies.c
    query = delete(tables.replies).where(r.claim == claim)
    if step is not None:
        query = query.where(r.step == step, r.server_round < before)
    connection.execute(query)
