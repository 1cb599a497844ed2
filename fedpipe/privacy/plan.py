"""The frozen plan of a run: which mechanisms touch a record, how often, at what total cost."""

from __future__ import annotations

from typing import Literal

from dp_accounting import dp_event
from dp_accounting.dp_event import DpEvent
from pydantic import BaseModel, ConfigDict, Field

from fedpipe.privacy.accounting import epsilon
from fedpipe.privacy.mechanisms import DpSgd, NoisyHistograms

Mechanism = NoisyHistograms | DpSgd
Split = Literal["train", "eval", "all"]


class Query(BaseModel):
    """A mechanism in its place: the step that uses it, and the splits whose records it reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: str
    splits: tuple[Split, ...]
    mechanism: Mechanism = Field(discriminator="kind")

    @property
    def events(self) -> DpEvent:
        """The cost of all releases that the plan allows."""
        return dp_event.SelfComposedDpEvent(self.mechanism.event, self.mechanism.num_releases)


class PrivacyPlan(BaseModel):
    """What a run may ask of every client. Calibrated once, then never changed.

    With `keyed` sources the two splits are disjoint blocks, and a record pays only for the
    queries of its own split (parallel composition). Without a key the split of an amended
    record could change, so both splits are one block, `all`, and the costs add up.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    private: bool
    unit: Literal["record"] = "record"
    neighboring_relation: Literal["add_or_remove_one"] = "add_or_remove_one"
    epsilon: float = Field(gt=0)
    delta: float = Field(gt=0, lt=1)
    keyed: bool
    randomness: Literal["secure", "seeded"]
    queries: dict[str, Query]

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that have blocks of their own."""
        return ("train", "eval") if self.keyed else ("all",)

    def queries_of(self, split: Split) -> dict[str, Query]:
        """Returns the queries that read records of `split`'s block."""
        return {name: query for name, query in self.queries.items() if split in query.splits}

    def events_of(self, split: Split) -> list[DpEvent]:
        """Returns everything that one record of `split`'s block may pay."""
        return [query.events for query in self.queries_of(split).values()]

    def epsilon_of(self, split: Split) -> float:
        """Returns the PLD epsilon of `split`'s block over all planned events, at `delta`."""
        return epsilon(self.events_of(split), self.delta)

    def total_epsilon(self) -> float:
        """Returns the run's epsilon for one record: the largest over its possible blocks."""
        return max(self.epsilon_of(split) for split in self.splits)
