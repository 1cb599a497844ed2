"""What a scenario of weeks consists of: how many, over which window, and what happens at the owners."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedpipe.config import Config, parse_config
from fedpipe.data.spans import is_span, newest_spans, next_span
from fedpipe.errors import ConfigError

YEAR = Path(__file__).with_name("year.yaml")
LEAST_CLIENTS = 2

Kind = Literal["silent", "away", "joins", "extra_run", "missing_column", "reexport", "positive_share"]
Answer = Literal["warn", "stop", "ignore", "reweight", "resample"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Event(_Strict):
    """Something that happens at data owners, from `week` on, for `weeks` weeks."""

    week: int = Field(ge=1)
    weeks: int = Field(1, ge=1)
    kind: Kind
    clients: tuple[int, ...] = Field((), description="By number, from 1; none: all of them.")
    column: str | None = Field(None, description="Of missing_column.")
    share: float | None = Field(
        None, ge=0, le=1, description="Missing cells, amended records, or positive labels."
    )

    @model_validator(mode="after")
    def _check_needs(self) -> Event:
        if (self.kind == "missing_column") != (self.column is not None):
            raise ValueError("expected a column exactly for missing_column")
        if (self.kind in ("missing_column", "reexport", "positive_share")) != (self.share is not None):
            raise ValueError("expected a share exactly for missing_column, reexport and positive_share")
        if self.kind in ("away", "joins") and not self.clients:
            raise ValueError(f"expected the clients that {self.kind} is about")
        return self

    def concerns(self, client: int) -> bool:
        """Whether it happens at `client`."""
        return not self.clients or client in self.clients

    def holds(self, week: int) -> bool:
        """Whether it is going on in `week`."""
        return self.week <= week < self.week + self.weeks

    def words(self) -> str:
        """Returns what happens, for people."""
        who = f"client {', '.join(map(str, self.clients))}" if self.clients else "all clients"
        share = f"{self.share:.0%}" if self.share is not None else ""
        return {
            "silent": f"no new records at {who}",
            "away": f"{who} away",
            "joins": f"{who} joins",
            "extra_run": "an extra run on the newest week alone",
            "missing_column": f"{share} of {self.column} missing at {who}",
            "reexport": f"late records and a new export with {share} amended records at {who}",
            "positive_share": f"positive labels become {share}",
        }[self.kind]


class Scenario(_Strict):
    """A scenario of weeks. Everything in it is public."""

    weeks: int = Field(52, ge=1, le=2000)
    window: int = Field(4, ge=1, le=52)
    num_clients: int = Field(6, ge=LEAST_CLIENTS, le=1000)
    records_per_week: int = Field(120, ge=1)
    first_week: str = "2026-W02"
    positive_share: float = Field(0.5, gt=0, lt=1)
    drift_per_week: float = 0.0
    seed: int = Field(0, ge=0)
    events: tuple[Event, ...] = ()
    problem: dict[str, Any]

    @model_validator(mode="after")
    def _check(self) -> Scenario:
        if not is_span(self.first_week, "week"):
            raise ValueError(f"expected first_week such as 2026-W02, found {self.first_week!r}")
        for week in range(1, self.weeks + 1):
            if len(self.present(week)) < LEAST_CLIENTS:
                raise ValueError(
                    f"expected {LEAST_CLIENTS} clients or more in every week, found fewer in {week}"
                )
        self.config(1)
        return self

    def span(self, week: int) -> str:
        """Returns the name of week number `week`, from 1."""
        span = self.first_week
        for _ in range(week - 1):
            span = next_span(span)
        return span

    def spans(self, week: int) -> tuple[str, ...]:
        """Returns the spans of a week's run: the window, or as many weeks as there have been."""
        return newest_spans(self.span(week), min(self.window, week))

    def during(self, week: int, kind: Kind) -> list[Event]:
        """Returns the events of a kind that are going on in `week`."""
        return [event for event in self.events if event.kind == kind and event.holds(week)]

    def members(self, week: int) -> tuple[int, ...]:
        """Returns the clients that have joined by `week`, whether they are there or away."""
        later = {
            client
            for event in self.events
            for client in event.clients
            if event.kind == "joins" and event.week > week
        }
        return tuple(client for client in range(1, self.num_clients + 1) if client not in later)

    def present(self, week: int) -> tuple[int, ...]:
        """Returns the clients that take part in `week`."""
        away = self.during(week, "away")
        return tuple(c for c in self.members(week) if not any(event.concerns(c) for event in away))

    def config(self, week: int, spans: tuple[str, ...] | None = None) -> Config:
        """Returns the configuration of a week's run, by default on its window."""
        wanted = spans or self.spans(week)
        validation = self.problem.get("validation", {})
        # Health is counted over the whole window: half of one week's cells is the limit.
        least = {"max_unusable_share": 0.5 / self.window}
        return parse_config(
            self.problem
            | {
                "spans": {"last": len(wanted), "until": wanted[-1]},
                "validation": least | validation,
                # A client without records in the window stays itself: its blocks are its own.
                "federation": self.problem.get("federation", {})
                | {"partition": "file", "small_clients": "keep"},
                "privacy": self.problem.get("privacy", {}) | {"lifetime_runs": self.window},
            },
            source="the scenario's problem",
        )


def load_scenario(path: Path, **changes: Any) -> Scenario:
    """Returns the scenario in a YAML file, with those of `changes` that are not None.

    `on_label_shift` changes the setting of that name in the problem's validation.

    Raises:
      ConfigError: the file is missing, or something in it does not fit.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(
            f"Expected a scenario in {path}, found none that can be read: see {YEAR}."
        ) from error
    if not isinstance(raw, dict):
        raise ConfigError(f"Expected settings (key: value) in {path}, found something else: see {YEAR}.")
    answer = changes.pop("on_label_shift", None)
    raw |= {name: value for name, value in changes.items() if value is not None}
    if answer is not None:
        problem = raw.get("problem", {})
        raw["problem"] = problem | {"validation": problem.get("validation", {}) | {"on_label_shift": answer}}
    try:
        return Scenario.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the scenario"
        raise ConfigError(
            f"Expected a scenario that fits, found in {place}: {first['msg'].removeprefix('Value error, ')}: "
            "correct it."
        ) from error
