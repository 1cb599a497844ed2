"""What a ledger says of its past, as plain frozen values for reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedpipe.ledger.blocks import Block, BlockPolicy

Protection = Literal["private", "seeded", "NOT PRIVATE"]


@dataclass(frozen=True, kw_only=True)
class RunCharge:
    """What one run took of one block, as Renyi divergence at the block's order.

    Attributes:
      spent: of the releases that were made.
      reserved: of those that the run, still open, may make.
    """

    run_id: str
    spent: float
    reserved: float

    @property
    def held(self) -> float:
        """What counts against the budget."""
        return self.spent + self.reserved


@dataclass(frozen=True, kw_only=True)
class BlockHistory:
    """A block, its lifetime budget, and what each run took of it, oldest first.

    `in_gap`: the ledger has forgotten what else was spent of it, so all of it counts as spent.
    """

    ledger: str
    block: Block
    policy: BlockPolicy
    unit: str
    neighboring_relation: str
    budget: float
    charges: tuple[RunCharge, ...]
    num_releases: int
    in_gap: bool = False

    @property
    def spent(self) -> float:
        """The divergence of all that was released, as far as it is known: in a gap, all of the budget."""
        return self.budget if self.in_gap else sum(charge.spent for charge in self.charges)

    @property
    def reserved(self) -> float:
        """The divergence of all that open claims may still release; it counts as spent."""
        return 0.0 if self.in_gap else sum(charge.reserved for charge in self.charges)

    @property
    def left(self) -> float:
        """What a new claim may still reserve."""
        return max(0.0, self.budget - self.spent - self.reserved)


@dataclass(frozen=True, kw_only=True)
class RunHistory:
    """A run as one ledger knows it. Times are ISO 8601 in UTC, None without a release.

    Of a run that is not `private`, budgets say nothing: it released without noise, or with noise that
    whoever knows the seed can take off.
    """

    run_id: str
    began_at: str
    last_release_at: str | None
    num_releases: int
    clients: tuple[str, ...]
    is_open: bool
    protection: Protection


@dataclass(frozen=True, kw_only=True)
class StepCharge:
    """What a step of a run took of the blocks of a span: their shares of lifetime budget, added up."""

    run_id: str
    step: str
    span: str
    shares: float


@dataclass(frozen=True, kw_only=True)
class DayOfReleases:
    """How many releases a step made on a day (UTC)."""

    date: str
    step: str
    num_releases: int


@dataclass(frozen=True, kw_only=True)
class History:
    """All that one ledger says of the blocks that were asked for."""

    ledger: str
    blocks: tuple[BlockHistory, ...]
    runs: tuple[RunHistory, ...]
    steps: tuple[StepCharge, ...]
    days: tuple[DayOfReleases, ...]
