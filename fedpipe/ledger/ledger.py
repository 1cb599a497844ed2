"""The ledger of one data store: what each block may spend, has promised and has spent.

The order of things is what protects a record (PrivateKube's vocabulary, OSDI 2021): `reserve`
the whole run durably before anything is read; `commit` each release in the transaction that
stores its reply, before the reply is sent; `close` frees only what was never committed. A crash
at any point leaves the reservation standing, and a reservation counts as spent. Each of them
appends to a chain of signed entries, from which all the rest follows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from sqlalchemy import Connection, func, insert, select

from fedpipe.errors import LedgerError
from fedpipe.ledger import tables
from fedpipe.ledger.admission import Demand, Spending, all_spending, check_blocks
from fedpipe.ledger.blocks import Block, BlockPolicy, claim_name
from fedpipe.ledger.chain import Chain, page_after
from fedpipe.ledger.claims import (
    Agreement,
    ReleaseId,
    claim_row,
    close,
    commit,
    kept_reply,
    release_row,
    reserve,
)
from fedpipe.ledger.costs import StepCost, run_costs
from fedpipe.ledger.entries import BEGINNING, Entry, LedgerMade, SignedHead
from fedpipe.ledger.heads import meet_head, newest_heads, witness_head
from fedpipe.ledger.stores import LedgerStore, as_ledger_error, shrink_file
from fedpipe.privacy import PrivacyPlan
from fedpipe.signing import SigningKey, hold_key, read_key

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Returns the present moment in UTC."""
    return datetime.now(timezone.utc)


class Ledger:
    """A SQLite file or a PostgreSQL database. Safe under several processes; opened and closed by `with`."""

    def __init__(
        self, store: LedgerStore | Path, *, clock: Clock = utc_now, verified: str | None = None
    ) -> None:
        """Opens the ledger, and checks its end unless that is the entry with the digest `verified`."""
        self._store = store if isinstance(store, LedgerStore) else LedgerStore.at(store)
        self._clock = clock
        try:
            with as_ledger_error():
                engine = self._store.open(self._lay_out)
                self._connection = engine.connect()
            self._key = self._open(verified)
        except OSError as error:
            raise LedgerError(
                f"Expected to make a ledger at {self._store}, found that impossible: {error}."
            ) from error
        except LedgerError as error:
            raise LedgerError(f"{error} (The ledger: {self._store}.)") from error

    def _lay_out(self, connection: Connection, key: SigningKey) -> None:
        tables.metadata.create_all(connection)
        connection.execute(insert(tables.info).values(key="format_version", value=tables.FORMAT_VERSION))
        Chain(connection, key, self._now, verified=BEGINNING).append(LedgerMade(public_key=key.public))

    def _open(self, verified: str | None) -> SigningKey:
        try:
            with self._transaction() as connection:
                found = tables.read_format(connection)
                if found != tables.FORMAT_VERSION:
                    self._upgrade(connection, found)
                key = read_key(self._store.key_path)
                self._verified = Chain(connection, key, self._now, verified=verified).last_digest
        except BaseException:
            self._connection.close()
            raise
        return key

    def _upgrade(self, connection: Connection, found: str | None) -> None:
        from fedpipe.ledger.migration import UPGRADABLE, upgrade  # slow, and seldom needed

        if found not in UPGRADABLE:
            raise LedgerError(
                f"Expected a ledger of format {tables.FORMAT_VERSION}, found {found or 'no ledger'}: restore "
                "it from a backup, or use the fedpipe version that wrote it. A new ledger would forget what "
                "was spent."
            )
        upgrade(connection, hold_key(self._store.key_path), self._now, found=found)

    @property
    def verified(self) -> str:
        """The digest of the newest entry that this process checked, or made."""
        return self._verified

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
        demand = Demand.make(plan, blocks, steps)
        check_blocks(client, demand)
        agreement = Agreement(run_id=run_id, client=client, terms=terms, terms_digest=terms_digest)
        with self._writing() as chain:
            reserve(chain, agreement, demand, policy=policy, division=division)

    def terms(self, run_id: str, client: str) -> str:
        """Returns what `client` agreed to for `run_id`, as stored by `reserve`.

        Raises:
          LedgerError: if it never agreed to this run.
        """
        with self._transaction() as connection:
            row = claim_row(connection, claim_name(run_id, client))
        if row is None:
            raise LedgerError(
                f"Expected an accepted run, found no claim for run {run_id}: the claim comes first."
            )
        return str(row.terms)

    def has_claim(self, run_id: str, client: str) -> bool:
        """Returns whether `client` ever agreed to `run_id`; closed or not."""
        with self._transaction() as connection:
            return claim_row(connection, claim_name(run_id, client)) is not None

    def stored_reply(self, release: ReleaseId, request_digest: str) -> bytes | None:
        """Returns the bytes that answered this very request before, or None if it is new.

        Raises:
          LedgerError: the identity was used with other content, or its reply is no longer kept.
        """
        with self._transaction() as connection:
            row = release_row(connection, release)
            reply = kept_reply(connection, release) if row else None
        if row is None:
            return None
        if row.request_digest != request_digest:
            raise LedgerError(
                f"Expected the request that {release.step} round {release.server_round} attempt "
                f"{release.attempt} was answered for, found other content under the same identity."
            )
        if reply is None:
            raise LedgerError(
                f"Expected a request of the current round, found {release.step} round "
                f"{release.server_round}, whose reply is no longer kept: a new run (--fresh) is a new charge."
            )
        return reply

    def commit(self, release: ReleaseId, *, request_digest: str, reply: bytes, charged: bool = True) -> None:
        """Counts a release as made and keeps `reply`, in one durable transaction. Call before sending.

        `charged=False` is for runs that their owner let happen without privacy: nothing to count.

        Raises:
          LedgerError: the claim is unknown, closed or older than a gap, the identity was used, or an
            uncharged release was asked of a claim that holds a budget.
          BudgetError: the plan allows no further release in this step.
        """
        with self._writing() as chain:
            commit(chain, release, request_digest=request_digest, reply=reply, charged=charged)

    def close(self, run_id: str, client: str) -> bool:
        """Ends a claim: what was committed stays spent, what was never committed is free again.

        Returns whether there is such a claim.
        """
        with self._writing() as chain:
            known = close(chain, run_id, client)
        shrink_file(self._connection)
        return known

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

    @property
    def key(self) -> SigningKey:
        """The key that signs the chain, and whatever else the ledger's owner vouches for."""
        return self._key

    def head(self) -> SignedHead:
        """Returns the signed head of the chain: whoever keeps it can tell later whether it was changed."""
        with self._writing() as chain:
            return chain.end.head(self._key.public)

    def entries(self, after: int = 0) -> Iterator[Entry]:
        """Returns the entries after position `after`, in order."""
        while True:
            with self._transaction() as connection:
                page = page_after(connection, after)
            if not page:
                return
            yield from page
            after = page[-1].position

    def witness(self, name: str, head: SignedHead) -> None:
        """Keeps `head`, which the ledger of `name` has shown, as an entry if it is that ledger's newest.

        Raises:
          LedgerError: it is not signed, another key's than before, or says another digest than before of the
            same position.
        """
        with self._writing() as chain:
            witness_head(chain, name, head)

    def witnessed(self, name: str) -> SignedHead | None:
        """Returns the newest head that was kept under `name`, or None."""
        with self._transaction() as connection:
            return newest_heads(connection, name).get(name)

    def all_witnessed(self) -> dict[str, SignedHead]:
        """Returns the newest head that each other ledger has shown, by the name under which it was kept."""
        with self._transaction() as connection:
            return newest_heads(connection)

    def meet(self, own_head: SignedHead) -> None:
        """Checks that a head, signed by this ledger's key and shown by somebody else, is in the chain.

        If not, the ledger is older than what it once was: a gap is written down. From then on all known
        blocks count as spent, and others are admitted only of spans that begin later.

        Raises:
          LedgerError: a gap was found, or the head is another ledger's.
        """
        with self._writing() as chain:
            gap = meet_head(chain, self._key.public, own_head)
        if gap is not None:
            raise gap  # after the gap is durable

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with as_ledger_error(), self._connection.begin():
            yield self._connection

    @contextmanager
    def _writing(self) -> Iterator[Chain]:
        with self._transaction() as connection:
            chain = Chain(connection, self._key, self._now, verified=self._verified)
            yield chain
        self._verified = chain.last_digest

    def _now(self) -> str:
        return self._clock().isoformat(timespec="milliseconds")
