"""A data owner's node: its records, its key, its ledger, and what it is willing to do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from fedpipe.data import Schema, Shard, Transform, open_shard
from fedpipe.errors import FederationError, LedgerError
from fedpipe.federation import Request
from fedpipe.federation.terms import RunTerms
from fedpipe.files import sha256
from fedpipe.ledger import Block, BlockPolicy, Ledger, policy_for_budget, policy_for_runs
from fedpipe.privacy import PrivacyPlan, Randomness, SecureRandomness, SeededRandomness


class NodePolicy(BaseModel):
    """What the owner allows. A coordinator cannot change any of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lifetime_epsilon: float | None = Field(None, gt=0, description="Lifetime budget of a new block.")
    lifetime_delta: float = Field(1e-5, gt=0, lt=1, description="Delta of that budget.")
    lifetime_runs: int | None = Field(
        None, ge=1, description="Alternatively: a new block affords this many runs like its first (simulations)."
    )
    allow_not_private: bool = Field(False, description="Whether runs without privacy may read the records.")
    seed: int | None = Field(None, description="Seed for plans with seeded randomness (tests); None refuses them.")

    def block_policy(self, plan: PrivacyPlan) -> BlockPolicy:
        """Returns the budget of a block that `plan` is the first to use."""
        if self.lifetime_epsilon is not None:
            return policy_for_budget(self.lifetime_epsilon, self.lifetime_delta)
        if self.lifetime_runs is not None and plan.private:
            return policy_for_runs(plan, self.lifetime_runs)
        return policy_for_budget(1.0, 1e-5)


@dataclass(frozen=True, kw_only=True)
class Node:
    """Where a data owner keeps things. The key never leaves; its file is readable by the owner only."""

    name: str
    source: Path
    key_path: Path
    ledger_path: Path
    policy: NodePolicy

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Node:
        """Returns the node that Flower's `node_config` describes.

        Raises:
          FederationError: if an entry is missing.
        """
        try:
            return cls(
                name=str(config["client"]),
                source=Path(str(config["source"])),
                key_path=Path(str(config["key"])),
                ledger_path=Path(str(config["ledger"])),
                policy=NodePolicy.model_validate(json.loads(str(config["policy"]))),
            )
        except KeyError as error:
            raise FederationError(f"Expected an entry {error} in the node's configuration, found none.") from error

    @property
    def key(self) -> bytes:
        """The secret behind splits and commitments."""
        return self.key_path.read_bytes()

    def shard(self, terms: RunTerms) -> Shard:
        """Returns the node's records as `terms` read them; kept in memory between requests."""
        status = self.source.stat()
        stamp = f"{status.st_mtime_ns}-{status.st_size}"
        return _shard(self.source, stamp, terms.data_schema.model_dump_json(), terms.eval_fraction, self.key)

    def blocks(self, terms: RunTerms) -> list[Block]:
        """Returns the blocks that the node's records fall into."""
        return [Block(client=self.name, span="undated", split=split) for split in terms.plan.splits]

    def randomness(self, plan: PrivacyPlan, request: Request) -> Randomness:
        """Returns the generator for one release: the system's, or a seeded one where the owner allows it."""
        if plan.randomness == "secure":
            return SecureRandomness()
        if self.policy.seed is None:
            raise LedgerError("Expected secure randomness, found a plan with a seeded generator: refused by policy.")
        identity = f"{self.name}/{request.step}/{request.server_round}/{request.attempt}"
        return SeededRandomness([self.policy.seed, int(sha256(identity.encode())[:12], 16)])

    def open_ledger(self) -> Ledger:
        """Returns the ledger of the node's data store."""
        return Ledger(self.ledger_path)

    def check(self, terms: RunTerms) -> None:
        """Raises LedgerError when the owner's policy does not allow `terms`."""
        if not terms.plan.private and not self.policy.allow_not_private:
            raise LedgerError("Expected a private plan, found privacy.enabled=false: refused by policy.")


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Labelled records as model inputs: float32 (n, num_features) and int32 (n,)."""

    features: NDArray[np.float32]
    labels: NDArray[np.int32]


def encode(shard: Shard, transform: Transform) -> Encoded:
    """Returns `shard`'s records as model inputs; kept in memory for the rounds of a run."""
    return _encode(_ByIdentity(shard), transform.model_dump_json())


@lru_cache(maxsize=2048)
def _shard(path: Path, _stamp: str, schema: str, eval_fraction: float, key: bytes) -> Shard:
    return open_shard(path, Schema.model_validate_json(schema), eval_fraction=eval_fraction, split_key=key)


@dataclass(frozen=True, eq=False)
class _ByIdentity:
    """A shard as a cache key: the object itself, not its content."""

    shard: Shard

    def __hash__(self) -> int:
        return id(self.shard)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByIdentity) and self.shard is other.shard


@lru_cache(maxsize=4096)
def _encode(key: _ByIdentity, transform: str) -> Encoded:
    features = Transform.model_validate_json(transform).encode(key.shard.frame)
    return Encoded(features=features, labels=key.shard.labels.astype(np.int32))
