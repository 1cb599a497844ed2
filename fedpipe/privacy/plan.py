"""The frozen plan of a run: which mechanisms touch a record, how often, at what total cost."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from dp_accounting import dp_event
from dp_accounting.dp_event import DpEvent
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedpipe.errors import PrivacyError, nearest
from fedpipe.privacy.accounting import epsilon
from fedpipe.privacy.mechanisms import DpSgd, NoisyHistograms
from fedpipe.privacy.units import Unit, UserUnit

Mechanism = NoisyHistograms | DpSgd
Split = Literal["train", "eval", "all"]

# What clients do for each query: the step that answers it, with which mechanism, from which records. A plan
# that arrives must say the same, or a step would read records that pay for another one, or pay for nothing.
_PLACES: dict[str, tuple[str, type[NoisyHistograms] | type[DpSgd], tuple[Split, ...]]] = {
    "labels": ("statistics", NoisyHistograms, ("train", "eval")),
    "users": ("statistics", NoisyHistograms, ("train", "eval")),
    "columns": ("statistics", NoisyHistograms, ("train", "eval")),
    "features": ("preprocess", NoisyHistograms, ("train",)),
    "training": ("train", DpSgd, ("train",)),
    "evaluation": ("analyze", NoisyHistograms, ("eval",)),
    "slices": ("analyze", NoisyHistograms, ("eval",)),
}
_OPTIONAL = {"slices"}  # a client that has no plan for it refuses to answer it
_OF_USERS = "users"  # counts users, each of them once; where records are the unit, there is nothing to count


class Query(BaseModel):
    """A mechanism in its place: the step that uses it, and the splits whose records it reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: str
    splits: tuple[Split, ...]
    mechanism: Mechanism = Field(discriminator="kind")

    @property
    def events(self) -> DpEvent:
        """The cost of all releases that the plan allows."""
        return planned_events(self.mechanism)


def planned_events(mechanism: Mechanism) -> DpEvent:
    """Returns the cost of all releases that a plan with `mechanism` allows."""
    return dp_event.SelfComposedDpEvent(mechanism.event, mechanism.num_releases)


class PrivacyPlan(BaseModel):
    """What a run may ask of every client. Calibrated once, then never changed.

    With `keyed` sources the two splits are disjoint blocks, and a unit pays only for the
    queries of its own split (parallel composition). Without a key the split of an amended
    record could change, so both splits are one block, `all`, and the costs add up.

    The unit is a record, or, with `user`, all records of a user at a client. A user may have
    records in several spans, that is in several blocks. Every query bounds what she adds over all
    spans of the run together, so `epsilon` holds for her as well; over several runs the costs of all
    her blocks add up.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    private: bool
    unit: Unit = "record"
    user: UserUnit | None = None
    neighboring_relation: Literal["add_or_remove_one"] = "add_or_remove_one"
    epsilon: float = Field(gt=0, allow_inf_nan=False)
    delta: float = Field(gt=0, lt=1)
    keyed: bool
    randomness: Literal["secure", "seeded"]
    queries: dict[str, Query]

    @model_validator(mode="after")
    def _check_unit(self) -> PrivacyPlan:
        if (self.unit == "user") != (self.user is not None):
            raise PrivacyError("Expected a column of users exactly for the unit user, found otherwise.")
        if self.user is not None and not self.keyed:
            raise PrivacyError("Expected users to have splits of their own, found a plan with one for all.")
        return self

    @model_validator(mode="after")
    def _check_queries(self) -> PrivacyPlan:
        if not self.private:
            if self.queries:
                raise PrivacyError("Expected no queries in a plan without privacy, found some.")
            return self
        for name, query in self.queries.items():
            _check_query(name, query, self.keyed)
            _check_bound(name, query.mechanism, self.max_records)
        steps = {query.step for query in self.queries.values()}
        left_out = _OPTIONAL if self.user else {*_OPTIONAL, _OF_USERS}
        expected = [name for name, place in _PLACES.items() if place[0] in steps and name not in left_out]
        missing = [name for name in expected if name not in self.queries]
        if missing or not steps:
            raise PrivacyError(f"Expected a plan for every query of its steps, found none for {missing}.")
        return self

    @property
    def max_records(self) -> int:
        """How many records of a unit a release reads at most."""
        return self.user.max_records if self.user else 1

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that have blocks of their own."""
        return ("train", "eval") if self.keyed else ("all",)

    def queries_for(self, split: str, steps: Collection[str] | None = None) -> dict[str, Query]:
        """Returns the queries of `steps` (by default of all) that read records of `split`'s block."""
        return {
            name: query
            for name, query in self.queries.items()
            if split in query.splits and (steps is None or query.step in steps)
        }

    def events_of(self, split: Split) -> list[DpEvent]:
        """Returns everything that one unit of `split`'s block may pay."""
        return [query.events for query in self.queries_for(split).values()]

    def epsilon_of(self, split: Split) -> float:
        """Returns the PLD epsilon of `split`'s block over all planned events, at `delta`."""
        return epsilon(self.events_of(split), self.delta)

    def total_epsilon(self) -> float:
        """Returns the run's epsilon for one unit: the largest over its possible splits."""
        return max(self.epsilon_of(split) for split in self.splits)


def _check_query(name: str, query: Query, keyed: bool) -> None:
    if name not in _PLACES:
        raise PrivacyError(f"Expected a query that clients know, found {name!r}. {nearest(name, _PLACES)}")
    step, kind, splits = _PLACES[name]
    expected = (step, kind.__name__, splits if keyed else ("all",))
    found = (query.step, type(query.mechanism).__name__, query.splits)
    if found != expected:
        raise PrivacyError(f"Expected {name} to be step, mechanism and splits {expected}, found {found}.")


def _check_bound(name: str, mechanism: Mechanism, max_records: int) -> None:
    """Raises PrivacyError unless a count's noise is for as many records of a unit as are counted."""
    expected = 1 if name == _OF_USERS else max_records
    if isinstance(mechanism, NoisyHistograms) and mechanism.max_records != expected:
        raise PrivacyError(
            f"Expected the noise of {name} to be for {expected} records of a unit, found it for "
            f"{mechanism.max_records}."
        )
