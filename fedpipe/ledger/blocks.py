"""Blocks: what a budget belongs to. A record's block is a function of that record alone."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedpipe.errors import LedgerError, PrivacyError
from fedpipe.privacy import PrivacyPlan
from fedpipe.privacy.accounting import ORDERS, renyi_budget, renyi_divergence, renyi_to_epsilon


@dataclass(frozen=True, kw_only=True, order=True)
class Block:
    """One client's records of one span that fall into one split."""

    client: str
    span: str
    split: str

    def __post_init__(self) -> None:
        """Raises LedgerError for a name that could be taken for another's."""
        if any(not part or "/" in part for part in (self.client, self.span, self.split)):
            raise LedgerError(f"Expected names without '/' for a block, found {self}.")

    @classmethod
    def parse(cls, name: str) -> Block:
        """Returns the block that is written as `name`."""
        parts = name.split("/")
        if len(parts) != 3:
            raise LedgerError(f"Expected a block's name, such as ada/2026-10/train, found {name!r}.")
        return cls(client=parts[0], span=parts[1], split=parts[2])

    def __str__(self) -> str:
        return f"{self.client}/{self.span}/{self.split}"


def claim_name(run_id: str, client: str) -> str:
    """Returns the name of `client`'s claim in run `run_id`."""
    return f"{run_id}/{client}"


class BlockPolicy(BaseModel):
    """What a block may spend in its lifetime, in the units of the ledger's filter.

    One Renyi order is fixed when the block is created, with the divergence that converts to
    (epsilon, delta) there; sums of divergences at that order compose even when later
    mechanisms depend on earlier results (Feldman and Zrnic 2021, arXiv:2008.11193, Theorem 4.3).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epsilon: float = Field(gt=0)
    delta: float = Field(gt=0, lt=1)
    renyi_order: int = Field(ge=2)
    # The part of delta that is kept for mechanisms with a delta of their own; none of ours has one.
    reserved_delta: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _leave_some_delta(self) -> BlockPolicy:
        if self.reserved_delta >= self.delta:
            raise PrivacyError(f"Expected reserved_delta < delta, found {self.reserved_delta:g}: lower it.")
        return self

    @property
    def renyi_budget(self) -> float:
        """The divergence that the block may spend at `renyi_order`."""
        return renyi_budget(self.epsilon, self.delta - self.reserved_delta, self.renyi_order)


def policy_for_runs(plan: PrivacyPlan, num_runs: int) -> BlockPolicy:
    """Returns the tightest policy under which every block affords `num_runs` runs of `plan`."""

    def bound(order: int) -> float:
        # Which split costs more can depend on the order: the blocks share one, and all must fit.
        cost = max(
            sum(renyi_divergence(event, order) for event in plan.events_of(split)) for split in plan.splits
        )
        return renyi_to_epsilon(num_runs * cost, order, plan.delta)

    order = min(ORDERS, key=bound)
    # A hair more than the sum, so that rounding cannot refuse the last run. With a large delta the bound may
    # be below zero, which is no epsilon.
    epsilon = max(bound(order) * (1 + 1e-9), 1e-6)
    return BlockPolicy(epsilon=epsilon, delta=plan.delta, renyi_order=order)


def policy_for_budget(epsilon: float, delta: float) -> BlockPolicy:
    """Returns the policy of a lifetime budget, at the order that admits most Gaussian releases."""
    order = max(ORDERS, key=lambda order: renyi_budget(epsilon, delta, order) / order)
    policy = BlockPolicy(epsilon=epsilon, delta=delta, renyi_order=order)
    if policy.renyi_budget <= 0:
        raise PrivacyError(
            f"Expected a lifetime budget that some release fits, found epsilon {epsilon:g} at delta "
            f"{delta:g}: raise either."
        )
    return policy
