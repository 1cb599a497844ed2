"""The ledger of one data store: what each block may spend, has promised and has spent.

The order of things is what protects a record (PrivateKube's vocabulary, OSDI 2021): `reserve`
the whole run durably before anything is read; `commit` each release in the transaction that
stores its reply, before the reply is sent; `close` frees only what was never committed. A crash
at any point leaves the reservation standing, and a reservation counts as spent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, case, func, insert, select, update
from sqlalchemy.exc import DatabaseError

from fedpipe.errors import BudgetError, LedgerError
from fedpipe.files import canonical_json
from fedpipe.ledger import tables
from fedpipe.ledger.blocks import Block, BlockPolicy
from fedpipe.privacy import PrivacyPlan, Query, event_to_json
from fedpipe.privacy.accounting import renyi_divergence

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Returns the present moment in UTC."""
    return datetime.now(timezone.utc)


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


def claim_name(run_id: str, client: str) -> str:
    """Returns the name of `client`'s claim in run `run_id`."""
    return f"{run_id}/{client}"


class Ledger:
    """One SQLite file. Safe under several processes; opened and closed by `with`."""

    def __init__(self, path: Path, *, clock: Clock = utc_now) -> None:
        self._clock = clock
        self._path = path
        self._engine = tables.open_engine(path)
        try:
            tables.metadata.create_all(self._engine)
            self._check_format()
        except DatabaseError as error:
            self._engine.dispose()
            raise LedgerError(
                f"Expected a ledger at {path}, found a file that SQLite cannot use. "
                "Restore it from a backup; a new ledger would forget what was spent."
            ) from error

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._engine.dispose()

    def reserve(
        self,
        *,
        run_id: str,
        client: str,
        terms: str,
        terms_digest: str,
        plan: PrivacyPlan,
        blocks: Iterable[Block],
        policy: BlockPolicy,
    ) -> None:
        """Reserves the whole of `plan` on all `blocks`, or changes nothing.

        A block that the ledger has not seen is created with `policy`; a known one keeps its own.
        The same claim with the same terms is adopted as it stands.

        Raises:
          BudgetError: a block cannot afford the plan.
          LedgerError: the claim exists with other terms, or was closed.
        """
        claim = claim_name(run_id, client)
        blocks = sorted(blocks)
        with self._engine.begin() as connection:
            if self._adopt(connection, claim, terms_digest):
                return
            connection.execute(
                insert(tables.claims).values(
                    claim=claim,
                    run_id=run_id,
                    client=client,
                    terms=terms,
                    terms_digest=terms_digest,
                    state="open",
                    created_at=self._now(),
                )
            )
            for block in blocks:
                self._register(connection, block, plan, policy)
            for block in blocks:
                self._reserve_block(connection, claim, block, plan)

    def terms(self, run_id: str, client: str) -> str:
        """Returns what `client` agreed to for `run_id`, as stored by `reserve`.

        Raises:
          LedgerError: if it never agreed to this run.
        """
        with self._engine.begin() as connection:
            row = self._claim(connection, claim_name(run_id, client))
        if row is None:
            raise LedgerError(f"Expected an accepted run, found no claim for run {run_id}: ingest comes first.")
        return str(row.terms)

    def stored_reply(self, release: ReleaseId, request_digest: str) -> bytes | None:
        """Returns the bytes that answered this very request before, or None if it is new.

        Raises:
          LedgerError: the identity was used with other content, or its reply is no longer kept.
        """
        with self._engine.begin() as connection:
            row = self._release(connection, release)
        if row is None:
            return None
        if row.request_digest != request_digest:
            raise LedgerError(
                f"Expected the request that {release.step} round {release.server_round} attempt "
                f"{release.attempt} was answered for, found other content under the same identity."
            )
        if row.reply is None:
            raise LedgerError(
                f"Expected a request of the current round, found {release.step} round {release.server_round}, "
                "whose reply is no longer kept: a new attempt is a new charge."
            )
        return bytes(row.reply)

    def commit(
        self, release: ReleaseId, *, request_digest: str, reply: bytes, charged: bool = True
    ) -> None:
        """Counts a release as made and keeps `reply`, in one durable transaction. Call before sending.

        `charged=False` is for runs that their owner let happen without privacy: nothing to count.

        Raises:
          LedgerError: the claim is unknown or closed, or the identity was used.
          BudgetError: the plan allows no further release in this step.
        """
        with self._engine.begin() as connection:
            claim = self._claim(connection, release.claim)
            if claim is None or claim.state != "open":
                raise LedgerError(f"Expected an open claim for run {release.run_id}, found none.")
            if self._release(connection, release) is not None:
                raise LedgerError("Expected a new release, found its identity already used.")
            if charged:
                self._count_release(connection, release)
            connection.execute(
                insert(tables.releases).values(
                    claim=release.claim,
                    step=release.step,
                    server_round=release.server_round,
                    attempt=release.attempt,
                    request_digest=request_digest,
                    reply=reply,
                    committed_at=self._now(),
                )
            )
            self._forget_older_replies(connection, release)

    def close(self, run_id: str, client: str) -> None:
        """Ends a claim: what was committed stays spent, what was never committed is free again."""
        with self._engine.begin() as connection:
            connection.execute(
                update(tables.claims)
                .where(tables.claims.c.claim == claim_name(run_id, client))
                .values(state="closed")
            )
            connection.execute(
                update(tables.releases)
                .where(tables.releases.c.claim == claim_name(run_id, client))
                .values(reply=None)
            )

    def spending(self) -> list[Spending]:
        """Returns every block with its budget and what claims hold of it."""
        with self._engine.begin() as connection:
            rows = connection.execute(select(tables.blocks).order_by(tables.blocks.c.block)).all()
            held = {row.block: row for row in connection.execute(_holdings())}
        return [_spending(row, held.get(row.block)) for row in rows]

    def num_releases(self, run_id: str) -> int:
        """Returns how many releases were committed for a run, over all clients."""
        query = (
            select(func.count())
            .select_from(tables.releases.join(tables.claims))
            .where(tables.claims.c.run_id == run_id)
        )
        with self._engine.begin() as connection:
            return int(connection.execute(query).scalar_one())

    def _check_format(self) -> None:
        with self._engine.begin() as connection:
            found = connection.execute(
                select(tables.info.c.value).where(tables.info.c.key == "format_version")
            ).scalar()
            if found is None:
                connection.execute(
                    insert(tables.info).values(key="format_version", value=tables.FORMAT_VERSION)
                )
            elif found != tables.FORMAT_VERSION:
                raise LedgerError(
                    f"Expected a ledger of format {tables.FORMAT_VERSION} at {self._path}, found {found}: "
                    "use the fedpipe version that wrote it."
                )

    def _now(self) -> str:
        return self._clock().isoformat(timespec="milliseconds")

    def _claim(self, connection: Connection, claim: str) -> Row[Any] | None:
        return connection.execute(select(tables.claims).where(tables.claims.c.claim == claim)).one_or_none()

    def _adopt(self, connection: Connection, claim: str, terms_digest: str) -> bool:
        row = self._claim(connection, claim)
        if row is None:
            return False
        if row.terms_digest != terms_digest:
            raise LedgerError(f"Expected the terms that claim {claim} was made with, found others: use a new run.")
        if row.state != "open":
            raise LedgerError(f"Expected an open claim, found {claim} closed: use a new run.")
        return True

    def _register(
        self, connection: Connection, block: Block, plan: PrivacyPlan, policy: BlockPolicy
    ) -> None:
        known = connection.execute(
            select(tables.blocks.c.privacy_unit, tables.blocks.c.neighboring_relation).where(
                tables.blocks.c.block == str(block)
            )
        ).one_or_none()
        if known is None:
            connection.execute(insert(tables.blocks).values(**_block_row(block, plan, policy, self._now())))
        elif tuple(known) != (plan.unit, plan.neighboring_relation):
            raise LedgerError(
                f"Expected events of unit {known[0]} under {known[1]} on block {block}, "
                f"found {plan.unit} under {plan.neighboring_relation}."
            )

    def _reserve_block(self, connection: Connection, claim: str, block: Block, plan: PrivacyPlan) -> None:
        row = connection.execute(select(tables.blocks).where(tables.blocks.c.block == str(block))).one()
        held = connection.execute(_holdings().where(tables.blocks.c.block == str(block))).one_or_none()
        spending = _spending(row, held)
        order = spending.policy.renyi_order
        queries = plan.queries_of(block.split)  # type: ignore[arg-type]
        requested = sum(renyi_divergence(query.events, order) for query in queries.values())
        if requested > spending.remaining:
            raise BudgetError(_refusal(spending, requested))
        for name, query in queries.items():
            connection.execute(
                insert(tables.reservations).values(**_reservation(claim, block, name, query, order))
            )

    def _release(self, connection: Connection, release: ReleaseId) -> Row[Any] | None:
        query = select(tables.releases).where(
            tables.releases.c.claim == release.claim,
            tables.releases.c.step == release.step,
            tables.releases.c.server_round == release.server_round,
            tables.releases.c.attempt == release.attempt,
        )
        return connection.execute(query).one_or_none()

    def _count_release(self, connection: Connection, release: ReleaseId) -> None:
        of_step = (
            tables.reservations.c.claim == release.claim,
            tables.reservations.c.step == release.step,
        )
        exhausted = connection.execute(
            select(func.count())
            .select_from(tables.reservations)
            .where(*of_step, tables.reservations.c.committed >= tables.reservations.c.planned)
        ).scalar_one()
        counted = connection.execute(
            update(tables.reservations)
            .where(*of_step)
            .values(committed=tables.reservations.c.committed + 1)
        )
        if exhausted or counted.rowcount == 0:
            raise BudgetError(
                f"Expected a release that the plan allows, found {release.step} round {release.server_round}: "
                "all planned releases of this step were made."
            )

    def _forget_older_replies(self, connection: Connection, release: ReleaseId) -> None:
        connection.execute(
            update(tables.releases)
            .where(
                tables.releases.c.claim == release.claim,
                tables.releases.c.step == release.step,
                tables.releases.c.server_round < release.server_round,
            )
            .values(reply=None)
        )


def _holdings() -> Any:
    """Selects what claims hold of each block: all that is planned, or what was committed once closed."""
    r, c = tables.reservations.c, tables.claims.c
    counted = case((c.state == "open", r.planned), else_=r.committed)
    return (
        select(
            tables.blocks.c.block,
            func.coalesce(func.sum(counted * r.divergence), 0.0).label("held"),
            func.coalesce(func.sum(r.committed), 0).label("num_releases"),
        )
        .select_from(tables.blocks.outerjoin(tables.reservations).outerjoin(tables.claims))
        .group_by(tables.blocks.c.block)
    )


def _spending(row: Row[Any], held: Row[Any] | None) -> Spending:
    return Spending(
        block=Block(client=row.client, span=row.span, split=row.split),
        policy=BlockPolicy(epsilon=row.epsilon, delta=row.delta, renyi_order=row.renyi_order),
        budget=row.renyi_budget,
        held=0.0 if held is None else float(held.held),
        num_releases=0 if held is None else int(held.num_releases),
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


def _refusal(spending: Spending, requested: float) -> str:
    order = spending.policy.renyi_order
    return (
        f"Expected a claim within the budget of block {spending.block}. "
        f"Requested: {requested:.4g}, remaining: {spending.remaining:.4g}, "
        f"difference: {requested - spending.remaining:.4g} (Renyi divergence at order {order}; the block's lifetime "
        f"budget is epsilon {spending.policy.epsilon:.4g} at delta {spending.policy.delta:g}). "
        "Nothing was changed. Ask for less (a smaller privacy.epsilon), or use records that have not been spent."
    )


