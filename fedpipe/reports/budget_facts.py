"""What a budget report says, as values: also the documented form of `fedpipe budget report --format json`.

Shares are parts of a block's lifetime budget. What open claims may still release counts as spent.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BlockFacts(_Facts):
    """One block: a client's records of one span that fall into one split."""

    ledger: str = Field(description="Which ledger says so: a file, or a URL without its password.")
    client: str
    span: str
    split: str
    epsilon: float = Field(description="Lifetime budget for `delta`: the guarantee that the ledger enforces.")
    delta: float
    renyi_order: int = Field(description="The order at which the ledger's filter adds divergences up.")
    renyi_budget: float = Field(description="Divergence at that order that converts to (epsilon, delta).")
    renyi_spent: float = Field(description="Of releases that were made; all of the budget if `in_gap`.")
    renyi_reserved: float = Field(description="Of releases that open claims may still make.")
    renyi_left: float
    share_spent: float
    share_reserved: float
    share_left: float
    running_epsilon: float | None = Field(
        description="PLD epsilon, at `delta`, that all releases made and reserved would cost had they "
        "been planned together. No guarantee: later runs were chosen after earlier results. None: unknown."
    )
    in_gap: bool = Field(
        description="Whether the ledger was found to have forgotten what was spent of it: then all counts as "
        "spent, and the running epsilon is not known."
    )
    num_releases: int
    runs: tuple[str, ...] = Field(description="Runs that spent or hold some of it, oldest first.")
    models: tuple[str, ...] = Field(description="Versions made from these runs' releases.")
    retrainings_left: int | None = Field(
        description="At the mean cost of its last runs; None if no run has used it."
    )

    @property
    def name(self) -> str:
        """The block as messages write it."""
        return f"{self.client}/{self.span}/{self.split}"

    @property
    def is_exhausted(self) -> bool:
        """Whether it cannot pay for another run like its last ones."""
        return self.retrainings_left == 0


class GroupFacts(_Facts):
    """A client or a span: how its scarcest block stands."""

    name: str
    num_blocks: int
    num_exhausted: int
    scarcest: str = Field(description="The block that has least left; the shares are its own.")
    share_spent: float
    share_reserved: float
    share_left: float
    epsilon: float = Field(description="Lifetime budget of the scarcest block.")
    delta: float
    running_epsilon: float | None = Field(description="As of the scarcest block.")
    retrainings_left: int | None = Field(description="The least over its blocks.")


class StepFacts(_Facts):
    """A step of the cycle, over all runs."""

    step: str
    mean_share: float = Field(description="Of lifetime budgets, on average over all blocks.")
    num_releases: int


class RunFacts(_Facts):
    """A run: what it took of the blocks that it used."""

    run_id: str
    began_at: str
    last_release_at: str | None
    is_open: bool = Field(description="Whether it may still release what it reserved.")
    protection: Literal["private", "seeded", "NOT PRIVATE"] = Field(
        description="Budgets say nothing of a run that released without noise, or with seeded noise."
    )
    num_clients: int
    num_blocks: int
    num_releases: int
    largest_share: float = Field(description="Of a block's lifetime budget, made and reserved.")
    steps: dict[str, float] = Field(description="By step, the mean share that it took of its blocks.")
    models: tuple[str, ...] = Field(description="Versions made from releases of this run.")


class ModelFacts(_Facts):
    """A registered version, and the blocks whose releases went into it."""

    model: str
    run_id: str = Field(description="The run that registered it.")
    epsilon: float | None = Field(description="Of its certificate; None: NOT PRIVATE.")
    delta: float | None
    runs: tuple[str, ...] = Field(description="Runs whose releases it is made from.")
    clients: tuple[str, ...]
    spans: tuple[str, ...]
    num_blocks: int
    blocks: tuple[str, ...]
    largest_share: float = Field(description="Of a block's lifetime budget, by these runs together.")


class DayFacts(_Facts):
    """The releases of one day (UTC), by step."""

    date: str
    releases: dict[str, int]


class CurvePoint(_Facts):
    """The running epsilon of a block at another delta."""

    delta: float
    epsilon: float


class CurveFacts(_Facts):
    """A block's running epsilon over deltas, and its budget's."""

    block: str
    points: tuple[CurvePoint, ...]


class PathFacts(_Facts):
    """How a block's budget was used up: the share held after each of its runs."""

    block: str
    times: tuple[str, ...]
    shares: tuple[float, ...]


class BudgetReport(_Facts):
    """Everything that ledgers say about budgets."""

    format: Literal["fedpipe budget report"] = "fedpipe budget report"
    version: Literal[1] = 1
    made_at: str
    ledgers: tuple[str, ...]
    client: str | None = Field(description="Whose records, if the report is about one client.")
    units: tuple[str, ...] = Field(description="What is protected: the unit of privacy.")
    neighboring_relations: tuple[str, ...]
    num_clients: int
    num_spans: int
    num_blocks: int
    num_exhausted: int
    num_runs: int
    num_releases: int
    num_in_gap: int = Field(description="Blocks of which ledgers have forgotten what was spent.")
    forecasts: tuple[str, ...]
    clients: tuple[GroupFacts, ...] = Field(description="Scarcest first.")
    spans: tuple[GroupFacts, ...] = Field(description="In order of time.")
    steps: tuple[StepFacts, ...] = Field(description="Dearest first.")
    runs: tuple[RunFacts, ...] = Field(description="Oldest first.")
    models: tuple[ModelFacts, ...] = Field(description="Oldest first; none without a workspace.")
    days: tuple[DayFacts, ...]
    curves: tuple[CurveFacts, ...] = Field(description="Of the scarcest block of each split.")
    paths: tuple[PathFacts, ...] = Field(description="Of the scarcest block of each of a few spans.")
    blocks: tuple[BlockFacts, ...] = Field(description="Scarcest first.")
    notes: tuple[str, ...] = Field(description="What these figures do not mean.")
