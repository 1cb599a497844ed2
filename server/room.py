"""The room that budgets leave for a run, and how much of it a plan would take."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fedpipe.errors import Shortfall
from fedpipe.ledger.history import BlockHistory
from fedpipe.privacy import PrivacyPlan
from fedpipe.privacy.accounting import ORDERS, renyi_divergence

_Limit = tuple[str, str, int]  # span, split and Renyi order


@dataclass(frozen=True, kw_only=True)
class Room:
    """What is known of the budgets that a run meets.

    Attributes:
      left: what remains of blocks, the least for each span, split and Renyi order.
      num_runs: how many runs are to fit.
      admitted: a plan of which all other blocks are known to admit `steps`; None if there are no others.
      steps: see `admitted`.
    """

    left: Mapping[_Limit, float]
    num_runs: int = 1
    admitted: PrivacyPlan | None = None
    steps: Collection[str] | None = None
    _ceilings: dict[tuple[str, int], float] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of_refusal(
        cls, shortfalls: Sequence[Shortfall], plan: PrivacyPlan, steps: Collection[str] | None
    ) -> Room:
        """Returns the room that a refusal tells of: blocks that did not refuse admitted `steps` of `plan`."""
        found = [
            ((each.block.split("/")[-2], each.split, each.renyi_order), each.remaining) for each in shortfalls
        ]
        return cls(left=_least(found), admitted=plan, steps=steps)

    @classmethod
    def of_blocks(cls, blocks: Sequence[BlockHistory], *, num_runs: int = 1) -> Room:
        """Returns the room of blocks as their ledger knows them."""
        found = [((b.block.span, b.block.split, b.policy.renyi_order), b.left) for b in blocks]
        return cls(left=_least(found), num_runs=num_runs)

    @property
    def has_any(self) -> bool:
        """Whether every block has something left."""
        return all(left > 0 for left in self.left.values())

    @property
    def spans(self) -> set[str]:
        """The spans that are known to be short."""
        return {span for span, _, _ in self.left}

    def use(self, plan: PrivacyPlan) -> float:
        """Returns the largest part of what is left that `plan` takes: it fits if that is 1 or less."""
        parts = [
            _part(self.num_runs * cost(plan, split, order), left)
            for (_, split, order), left in self.left.items()
        ]
        if self.admitted is not None:
            parts += [
                _part(cost(plan, split, order), self._ceiling(split, order))
                for split in plan.splits
                for order in ORDERS
            ]
        return max(parts, default=0.0)

    def without(self, spans: Collection[str]) -> Room:
        """Returns the room of the other spans."""
        return replace(self, left={key: left for key, left in self.left.items() if key[0] not in spans})

    def _ceiling(self, split: str, order: int) -> float:
        # Blocks that did not refuse have an order of their own, which nobody told: a plan that is no
        # dearer at any order is admitted by them too.
        if (split, order) not in self._ceilings and self.admitted is not None:
            self._ceilings[split, order] = cost(self.admitted, split, order, self.steps)
        return self._ceilings[split, order]


def cost(plan: PrivacyPlan, split: str, order: int, steps: Collection[str] | None = None) -> float:
    """Returns what `steps` of `plan` (by default all) may cost a block of `split`, as admission counts it."""
    return sum(renyi_divergence(query.events, order) for query in plan.queries_for(split, steps).values())


def _part(wanted: float, left: float) -> float:
    if wanted <= left:
        return wanted / left if left else 0.0
    # Above one whatever the rounding of the quotient: admission compares, it does not divide.
    return max(wanted / left, math.nextafter(1.0, 2.0)) if left > 0 else math.inf


def _least(found: Sequence[tuple[_Limit, float]]) -> dict[_Limit, float]:
    least: dict[_Limit, float] = {}
    for key, left in found:
        least[key] = min(left, least.get(key, math.inf))
    return least
