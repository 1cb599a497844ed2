"""The ledger of one data store: what each block may spend, has promised and has spent.

The order of things is what protects a record (PrivateKube's vocabulary, OSDI 2021): `reserve`
the whole run durably before anything is read; `commit` each release in the transaction that
stores its reply, before the reply is sent; `close` frees only what was never committed. A crash
at any point leaves the reservation standing, and a reservation counts as spent.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update
from sqlalchemy.exc import DatabaseError

from fedpipe.errors import BudgetError, LedgerError
from fedpipe.ledger import tables
from fedpipe.ledger.admission import (
    Spending,
    all_spending,
    check_blocks,
    check_budgets,
    hold_division,
    register_block,
    reserve_block,
    reserved,
)
from fedpipe.ledger.blocks import Block, BlockPolicy
from fedpipe.ledger.costs import StepCost, run_costs
from fedpipe.privacy import PrivacyPlan, Query

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


def claim_name(run_id: str, client: str) -> str:
    """Returns the name of `client`'s claim in run `run_id`."""
    return f"{run_id}/{client}"


class Ledger:
    """One SQLite file. Safe under several processes; opened and closed by `with`."""

    def __init__(self, path: Path, *, clock: Clock = utc_now) -> None:
        self._clock = clock
        try:
            engine = tables.open_engine(path)
        except (DatabaseError, OSError) as error:
            raise LedgerError(
                f"Expected to make a ledger at {path}, found that impossible: {error}."
            ) from error
        try:
            with _as_ledger_error():
                self._connection = engine.connect()
            self._check_format()
        except LedgerError as error:
            raise LedgerError(f"{error} (The file: {path}.)") from error

    def _check_format(self) -> None:
        try:
            with self._transaction() as connection:
                tables.check_format(connection)
        except LedgerError:
            self._connection.close()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._connection.close()

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
        steps: Collection[str] | None = None,
        division: str = "",
    ) -> None:
        """Reserves on all `blocks` what `steps` of `plan` may cost (by default all), or changes nothing.

        A block that the ledger has not seen is created with `policy`; a known one keeps its own.
        The same claim with the same terms is adopted as it stands. A plan without privacy reserves
        nothing and creates no block. `division` says what decides a record's block; the first claim of
        `client` fixes it.

        Raises:
          BudgetError: a block cannot afford the plan.
          LedgerError: the claim exists with other terms, steps or blocks, or was closed; the blocks are not
            those that the plan charges; or the records would be divided otherwise than before.
        """
        claim = claim_name(run_id, client)
        charged = sorted(set(blocks)) if plan.private else []
        if plan.private:
            check_blocks(client, charged, plan)
        wanted = [(block, plan.queries_for(block.split, steps)) for block in charged]
        with self._transaction() as connection:
            if self._adopt(connection, claim, terms_digest, wanted):
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
            if plan.private:
                hold_division(connection, client, division)
            for block in charged:
                register_block(connection, block, plan, policy, self._now())
            check_budgets(connection, wanted)
            for block, queries in wanted:
                reserve_block(connection, claim, block, queries)

    def terms(self, run_id: str, client: str) -> str:
        """Returns what `client` agreed to for `run_id`, as stored by `reserve`.

        Raises:
          LedgerError: if it never agreed to this run.
        """
        with self._transaction() as connection:
            row = _claim(connection, claim_name(run_id, client))
        if row is None:
            raise LedgerError(
                f"Expected an accepted run, found no claim for run {run_id}: the claim comes first."
            )
        return str(row.terms)

    def stored_reply(self, release: ReleaseId, request_digest: str) -> bytes | None:
        """Returns the bytes that answered this very request before, or None if it is new.

        Raises:
          LedgerError: the identity was used with other content, or its reply is no longer kept.
        """
        with self._transaction() as connection:
            row = _release(connection, release)
        if row is None:
            return None
        if row.request_digest != request_digest:
            raise LedgerError(
                f"Expected the request that {release.step} round {release.server_round} attempt "
                f"{release.attempt} was answered for, found other content under the same identity."
            )
        if row.reply is None:
            raise LedgerError(
                f"Expected a request of the current round, found {release.step} round "
                f"{release.server_round}, whose reply is no longer kept: a new run (--fresh) is a new charge."
            )
        return bytes(row.reply)

    def commit(self, release: ReleaseId, *, request_digest: str, reply: bytes, charged: bool = True) -> None:
        """Counts a release as made and keeps `reply`, in one durable transaction. Call before sending.

        `charged=False` is for runs that their owner let happen without privacy: nothing to count.

        Raises:
          LedgerError: the claim is unknown or closed, the identity was used, or an uncharged release was
            asked of a claim that holds a budget.
          BudgetError: the plan allows no further release in this step.
        """
        with self._transaction() as connection:
            claim = _claim(connection, release.claim)
            if claim is None or claim.state != "open":
                raise LedgerError(f"Expected an open claim for run {release.run_id}, found none.")
            if _release(connection, release) is not None:
                raise LedgerError("Expected a new release, found its identity already used.")
            if charged:
                _count_release(connection, release)
            elif reserved(connection, release.claim):
                raise LedgerError("Expected a charged release of a run with privacy, found an uncharged one.")
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
            _forget_replies(connection, release.claim, step=release.step, before=release.server_round)

    def close(self, run_id: str, client: str) -> bool:
        """Ends a claim: what was committed stays spent, what was never committed is free again.

        Returns whether there is such a claim.
        """
        claim = claim_name(run_id, client)
        with self._transaction() as connection:
            ended = connection.execute(
                update(tables.claims).where(tables.claims.c.claim == claim).values(state="closed")
            )
            _forget_replies(connection, claim)
            return ended.rowcount > 0

    def spending(self) -> list[Spending]:
        """Returns every block with its budget and what claims hold of it."""
        with self._transaction() as connection:
            return all_spending(connection)

    def costs(self, run_id: str) -> dict[str, StepCost]:
        """Returns what each step of a run has released, over all clients."""
        with self._transaction() as connection:
            return run_costs(connection, run_id)

    def num_releases(self, run_id: str) -> int:
        """Returns how many releases were committed for a run, over all clients."""
        query = (
            select(func.count())
            .select_from(tables.releases.join(tables.claims))
            .where(tables.claims.c.run_id == run_id)
        )
        with self._transaction() as connection:
            return int(connection.execute(query).scalar_one())

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with _as_ledger_error(), self._connection.begin():
            yield self._connection

    def _now(self) -> str:
        return self._clock().isoformat(timespec="milliseconds")

    def _adopt(
        self,
        connection: Connection,
        claim: str,
        terms_digest: str,
        wanted: Sequence[tuple[Block, Mapping[str, Query]]],
    ) -> bool:
        row = _claim(connection, claim)
        if row is None:
            return False
        if row.terms_digest != terms_digest:
            raise LedgerError(
                f"Expected the terms that claim {claim} was made with, found others: start a new run "
                "with --fresh."
            )
        if row.state != "open":
            raise LedgerError(f"Expected an open claim, found {claim} closed: start a new run with --fresh.")
        pairs = {(str(block), name) for block, queries in wanted for name in queries}
        if reserved(connection, claim) != pairs:
            raise LedgerError(
                f"Expected the blocks and steps that claim {claim} was made for, found others: start a new "
                "run with --fresh."
            )
        return True


@contextmanager
def _as_ledger_error() -> Iterator[None]:
    try:
        yield
    except DatabaseError as error:
        raise LedgerError(
            f"Expected a usable ledger, found one that SQLite cannot use ({error.orig}). If damaged, "
            "restore it from a backup: a new ledger would forget what was spent."
        ) from error


def _claim(connection: Connection, claim: str) -> Row[Any] | None:
    return connection.execute(select(tables.claims).where(tables.claims.c.claim == claim)).one_or_none()


def _release(connection: Connection, release: ReleaseId) -> Row[Any] | None:
    query = select(tables.releases).where(
        tables.releases.c.claim == release.claim,
        tables.releases.c.step == release.step,
        tables.releases.c.server_round == release.server_round,
        tables.releases.c.attempt == release.attempt,
    )
    return connection.execute(query).one_or_none()


def _count_release(connection: Connection, release: ReleaseId) -> None:
    """Counts one release of every query of the step, on every block that it reads."""
    r = tables.reservations.c
    of_step = (r.claim == release.claim, r.step == release.step)
    exhausted = connection.execute(
        select(func.count()).select_from(tables.reservations).where(*of_step, r.committed >= r.planned)
    ).scalar_one()
    counted = connection.execute(
        update(tables.reservations).where(*of_step).values(committed=r.committed + 1)
    )
    if exhausted or counted.rowcount == 0:
        raise BudgetError(
            f"Expected a release that the plan allows, found {release.step} round {release.server_round}: "
            "all planned releases of this step were made."
        )


def _forget_replies(
    connection: Connection, claim: str, *, step: str | None = None, before: int | None = None
) -> None:
    """Drops the replies of a claim: all of them, or those of a step that are older than a round."""
    c = tables.releases.c
    query = update(tables.releases).where(c.claim == claim, c.reply.is_not(None))
    if step is not None:
        query = query.where(c.step == step, c.server_round < before)
    connection.execute(query.values(reply=None))
