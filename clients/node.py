"""A data owner's node: its records, its key, its ledger, and what it is willing to do."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import ValidationError

from clients.division import Division
from clients.index import index_identity
from clients.ledger_checks import LedgerChecks
from clients.policy import NodePolicy
from clients.records import bounded, committed, read_shard
from clients.sources import read_listing
from fedpipe.data import Shard
from fedpipe.errors import FederationError, LedgerError
from fedpipe.federation import Reply, Request
from fedpipe.federation.flower_messages import NAME_PATTERN
from fedpipe.federation.messages import Heads
from fedpipe.federation.terms import RunTerms
from fedpipe.federation.witness import exchange_heads, heads_to_show
from fedpipe.files import sha256
from fedpipe.ledger import Block, Ledger, LedgerStore
from fedpipe.ledger.attestation import Attestation, Statement, attest, plan_digest
from fedpipe.privacy import PrivacyPlan, Randomness, SecureRandomness, SeededRandomness
from fedpipe.scratch import Scratch

MIN_KEY_BYTES = 16
_CHECKS = LedgerChecks()

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Node:
    """Where a data owner keeps things. The key never leaves; its file is readable by the owner only.

    `account` is the name under which the ledger knows these records. It is the client's own name,
    unless owners of other records, with other names or the same, share the ledger: in a simulation.
    `names` are pairs of a column's canonical name and what the owner's exports call it.
    """

    name: str
    account: str
    source: Path = field(repr=False)
    key_path: Path = field(repr=False)
    ledger: LedgerStore = field(repr=False)
    index_directory: Path = field(repr=False)
    policy: NodePolicy
    names: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Node:
        """Returns the node that Flower's `node_config` describes.

        Raises:
          FederationError: if an entry is missing or malformed.
          LedgerError: if `ledger` is neither a path nor a URL with its `ledger_key`.
        """
        try:
            name = str(config["client"])
            account = str(config.get("account", name))
            ledger = _ledger_store(config)
            node = cls(
                name=name,
                account=account,
                source=Path(str(config["source"])),
                key_path=Path(str(config["key"])),
                ledger=ledger,
                index_directory=Path(str(config.get("index", ledger.key_path.parent / "first-spans"))),
                policy=NodePolicy.model_validate_json(str(config["policy"])),
                names=tuple(json.loads(str(config.get("columns", "{}"))).items()),
            )
        except KeyError as error:
            raise FederationError(
                f"Expected an entry {error} in the node's configuration, found none: add it."
            ) from error
        except ValidationError as error:
            raise FederationError("Expected the node's policy as JSON, found something else.") from error
        if not (re.fullmatch(NAME_PATTERN, name) and re.fullmatch(NAME_PATTERN, account)):
            raise FederationError(
                "Expected a client name of letters, digits, '.', '_' and '-', found another."
            )
        return node

    @property
    def key(self) -> bytes:
        """The secret behind splits and commitments.

        Raises:
          FederationError: it is too short to be one.
        """
        key = self.key_path.read_bytes()
        if len(key) < MIN_KEY_BYTES:
            raise FederationError(f"Expected a node key of {MIN_KEY_BYTES} bytes or more, found {len(key)}.")
        return key

    @property
    def scratch(self) -> Scratch:
        """Where records are that do not fit in memory: beside the ledger, so on a disk of the owner's."""
        return Scratch(directory=self.ledger.key_path.parent)

    def accept(self, terms: RunTerms) -> None:
        """Checks `terms` against everything that the owner holds to.

        Raises:
          FederationError: their spans are not those of the schema.
          LedgerError: the policy does not allow them.
        """
        terms.check_spans()
        self.policy.check(terms)

    def exchange(self, heads: Heads) -> None:
        """Compares the ledger with what the coordinator shows of it, and keeps the coordinator's head.

        Raises:
          LedgerError: the ledger has forgotten what it showed, and stops; or the coordinator's has.
        """
        if self._has_ledger:
            with self.open_ledger() as ledger:
                exchange_heads(ledger, heads)
        elif heads.receiver is not None:
            raise LedgerError(
                "Expected the ledger that this node has shown before, found none: its owner must restore it."
            )

    def with_heads(self, reply: Reply, heads: Heads) -> Reply:
        """Returns `reply` with the newest heads of the node's ledger, if there is one, and of the asker's."""
        if not self._has_ledger:
            return reply
        with self.open_ledger() as ledger:
            return replace(reply, heads=heads_to_show(ledger, heads))

    @property
    def _has_ledger(self) -> bool:
        return self.ledger.key_path.exists()

    def claim(self, run_id: str, terms: RunTerms, steps: Collection[str]) -> None:
        """Reserves, durably, all that `steps` of the run may cost the node's records.

        Raises:
          FederationError, LedgerError: the terms are not acceptable, or would move records to other blocks.
          BudgetError: the records cannot afford it.
        """
        self.accept(terms)
        self.policy.check_steps(steps)
        division = self._division(terms)
        with self.open_ledger() as ledger:
            ledger.reserve(
                run_id=run_id,
                client=self.account,
                terms=terms.model_dump_json(),
                terms_digest=terms.digest,
                plan=terms.plan,
                blocks=self.blocks(terms),
                policy=self.policy.block_policy(terms.plan),
                steps=steps,
                division=division,
            )

    def shard(self, terms: RunTerms) -> Shard:
        """Returns what a run under `terms` reads: `records`, or of those a few of each user's."""
        shard, user = self.records(terms), terms.plan.user
        if user is None:
            return shard
        return bounded(shard, terms.data_schema.model_dump_json(), user.max_records, self.key)

    def records(self, terms: RunTerms) -> Shard:
        """Returns the node's records in the spans of `terms`, as these read them; kept in memory.

        With a key and a date, a record's span is the one that it was first seen in.
        """
        listing = read_listing(self.source)
        schema = terms.data_schema.model_dump_json()
        index = self._index_path(terms)
        with self._owner_told():
            return read_shard(
                listing.sources,
                listing.stamp,
                schema,
                terms.eval_fraction,
                terms.spans,
                self.key,
                index,
                self.names,
                self.scratch,
            )

    def _division(self, terms: RunTerms) -> str:
        """Returns how records fall into blocks, by which index among other things."""
        index = self._index_path(terms)
        if index is None:
            return Division.of(terms, names=self.names).to_json()
        with self._owner_told():
            return Division.of(terms, names=self.names, index=index_identity(index)).to_json()

    def _index_path(self, terms: RunTerms) -> Path | None:
        """Returns where first spans are kept: for each way to divide the records by themselves."""
        if terms.data_schema.key is None or terms.data_schema.time is None:
            return None
        division = sha256(Division.of(terms, names=self.names).to_json().encode())
        return self.index_directory / f"{self.account}-{division[:16]}.sqlite"

    @contextmanager
    def _owner_told(self) -> Iterator[None]:
        """What ails the index is the owner's business, and goes to her log."""
        try:
            yield
        except LedgerError:
            logger.exception("%s cannot use its index of first spans", self.name)
            raise LedgerError(
                "Expected a usable index of first spans, found none; the node's own log says why."
            ) from None

    def commitments(self, terms: RunTerms) -> dict[str, str]:
        """Returns, by declared span, the keyed commitment to the node's records in it; kept in memory."""
        shard = self.records(terms)
        return {span: committed(shard, self.key, span) for span in terms.spans}

    def vouch(self, run_id: str, terms: RunTerms, steps: Collection[str], *, code: str) -> Attestation:
        """Returns what the node claimed for `steps` of the run, signed with its ledger's key.

        Raises:
          LedgerError: the ledger or its key cannot be used; the owner's log says why.
        """
        statement = Statement(
            run_id=run_id,
            client=self.name,
            account=self.account,
            steps=tuple(steps),
            plan_sha256=plan_digest(terms.plan),
            terms_sha256=terms.digest,
            commitments=self.commitments(terms),
            code_sha256=code,
        )
        with self.open_ledger() as ledger:
            return attest(statement, ledger.key)

    def blocks(self, terms: RunTerms) -> list[Block]:
        """Returns the blocks that `terms` charge: all declared spans, those without a record among them.

        A run without privacy has nothing to charge.
        """
        splits = terms.plan.splits if terms.plan.private else ()
        return [
            Block(client=self.account, span=span, split=split) for span in terms.spans for split in splits
        ]

    def randomness(self, plan: PrivacyPlan, request: Request) -> Randomness:
        """Returns the generator for one release: the system's, or a seeded one where the owner allows it."""
        if plan.randomness == "secure":
            return SecureRandomness()
        if self.policy.seed is None:
            raise LedgerError("Expected secure randomness, found a seeded plan: refused by policy.")
        identity = f"{self.name}/{request.step}/{request.server_round}/{request.attempt}"
        return SeededRandomness([self.policy.seed, int(sha256(identity.encode())[:12], 16)])

    @contextmanager
    def open_ledger(self) -> Iterator[Ledger]:
        """Opens the ledger of the node's data store.

        Raises:
          LedgerError: it refuses, or cannot be used. Where it lies and what ails it is the owner's
            business, and goes to her log.
        """
        try:
            with _CHECKS.open(self.ledger) as ledger:
                yield ledger
        except LedgerError as error:
            if str(self.ledger) not in str(error):
                raise
            logger.exception("%s cannot use its ledger", self.name)
            raise LedgerError("Expected a usable ledger, found none; the node's own log says why.") from None


def _ledger_store(config: Mapping[str, object]) -> LedgerStore:
    """Returns the store at the path or the URL `ledger`; `ledger_key` is the file of its key."""
    key = config.get("ledger_key")
    return LedgerStore.at(str(config["ledger"]), key=None if key is None else Path(str(key)))
