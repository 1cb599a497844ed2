"""A data owner's node: its records, its key, its ledger, and what it is willing to do."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from clients.division import Division
from clients.policy import NodePolicy
from clients.sources import read_listing
from fedpipe.data import Schema, Shard, Transform, open_shard
from fedpipe.data.readers import Source
from fedpipe.data.transform import Inputs
from fedpipe.errors import FederationError, LedgerError
from fedpipe.federation import Request
from fedpipe.federation.flower_messages import NAME_PATTERN
from fedpipe.federation.terms import RunTerms
from fedpipe.files import sha256
from fedpipe.ledger import Block, Ledger
from fedpipe.memory import align
from fedpipe.privacy import PrivacyPlan, Randomness, SecureRandomness, SeededRandomness

MIN_KEY_BYTES = 16
MAX_CLIENTS = 16_384  # of a simulation in one process: each keeps its records in memory

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Node:
    """Where a data owner keeps things. The key never leaves; its file is readable by the owner only.

    `account` is the name under which the ledger knows these records. It is the client's own name,
    unless owners of other records, with other names or the same, share the ledger: in a simulation.
    """

    name: str
    account: str
    source: Path = field(repr=False)
    key_path: Path = field(repr=False)
    ledger_path: Path = field(repr=False)
    policy: NodePolicy

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Node:
        """Returns the node that Flower's `node_config` describes.

        Raises:
          FederationError: if an entry is missing or malformed.
        """
        try:
            name = str(config["client"])
            account = str(config.get("account", name))
            node = cls(
                name=name,
                account=account,
                source=Path(str(config["source"])),
                key_path=Path(str(config["key"])),
                ledger_path=Path(str(config["ledger"])),
                policy=NodePolicy.model_validate_json(str(config["policy"])),
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

    def accept(self, terms: RunTerms) -> None:
        """Checks `terms` against everything that the owner holds to.

        Raises:
          FederationError: their spans are not those of the schema.
          LedgerError: the policy does not allow them.
        """
        terms.check_spans()
        self.policy.check(terms)

    def claim(self, run_id: str, terms: RunTerms, steps: Collection[str]) -> None:
        """Reserves, durably, all that `steps` of the run may cost the node's records.

        Raises:
          FederationError, LedgerError: the terms are not acceptable, or would move records to other blocks.
          BudgetError: the records cannot afford it.
        """
        self.accept(terms)
        self.policy.check_steps(steps)
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
                division=Division.of(terms).model_dump_json(),
            )

    def shard(self, terms: RunTerms) -> Shard:
        """Returns the node's records in the spans of `terms`, as these read them; kept in memory."""
        listing = read_listing(self.source)
        schema = terms.data_schema.model_dump_json()
        return _shard(listing.sources, listing.stamp, schema, terms.eval_fraction, terms.spans, self.key)

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
            with Ledger(self.ledger_path) as ledger:
                yield ledger
        except LedgerError as error:
            if str(self.ledger_path) not in str(error):
                raise
            logger.exception("%s cannot use its ledger", self.name)
            raise LedgerError("Expected a usable ledger, found none; the node's own log says why.") from None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Encoded:
    """Labelled records as model inputs, int32 (n,) classes and (n,) names of spans. Its repr shows none."""

    features: Inputs
    labels: NDArray[np.int32]
    spans: NDArray[np.str_]


def encode(shard: Shard, transform: Transform) -> Encoded:
    """Returns `shard`'s records as model inputs; kept in memory for the rounds of a run."""
    return _encode(shard, transform.model_dump_json())


@lru_cache(maxsize=MAX_CLIENTS)
def _shard(
    sources: tuple[Source, ...],
    _stamp: str,
    schema: str,
    eval_fraction: float,
    spans: tuple[str, ...],
    key: bytes,
) -> Shard:
    parsed = Schema.model_validate_json(schema)
    return open_shard(sources, parsed, eval_fraction=eval_fraction, split_key=key).within(spans)


@lru_cache(maxsize=MAX_CLIENTS)
def _encode(shard: Shard, transform: str) -> Encoded:
    features = Transform.model_validate_json(transform).encode_compactly(shard.frame)
    if isinstance(features, np.ndarray):
        features = align(features)  # once: TensorFlow copies other arrays in every round
    return Encoded(features=features, labels=shard.labels.astype(np.int32), spans=shard.spans)
