"""When a federation retrains by itself: by a cron expression, or once enough spans are over."""

from __future__ import annotations

import datetime as dt

import yaml
from croniter import croniter
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedpipe.config import load_config
from fedpipe.errors import ConfigError
from fedpipe.files import write_text
from fedpipe.yaml_files import read_yaml
from server.federation.home import FederationHome
from server.federation.runs import SUMMARY, last_run, stored_config
from server.federation.spans import num_new_spans

SCHEDULE = "schedule.yaml"


class Schedule(BaseModel):
    """What to run, and when. One run at a time: a date that falls into a run is passed over."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: str = Field(description="Name of a configuration, or an absolute path.")
    set: tuple[str, ...] = Field((), description="Overrides, as after --set.")
    cron: str | None = Field(None, description="Five fields, in UTC.")
    new_spans: int | None = Field(None, ge=1, description="Run once so many more spans are over.")
    since: dt.datetime = Field(description="Dates before are not made up for.")

    @model_validator(mode="after")
    def _check(self) -> Schedule:
        if (self.cron is None) == (self.new_spans is None):
            raise ValueError("expected either cron or new_spans")
        if self.cron is not None and not croniter.is_valid(self.cron):
            raise ValueError(f"expected a cron expression such as '0 3 * * 1', found {self.cron!r}")
        return self


def write_schedule(home: FederationHome, schedule: Schedule) -> None:
    """Keeps `schedule`; `up` sees it within a minute.

    Raises:
      ConfigError: its configuration cannot be read.
    """
    load_config(schedule.config, schedule.set)
    write_text(home.root / SCHEDULE, yaml.safe_dump(schedule.model_dump(mode="json"), sort_keys=False))


def make_schedule(**settings: object) -> Schedule:
    """Returns a checked schedule.

    Raises:
      ConfigError: it is none.
    """
    try:
        return Schedule.model_validate(settings)
    except ValidationError as error:
        reason = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise ConfigError(f"Expected a schedule, found a mistake: {reason}.") from error


def read_schedule(home: FederationHome) -> Schedule | None:
    """Returns the schedule, or None if there is none."""
    path = home.root / SCHEDULE
    if not path.exists():
        return None
    loaded = read_yaml(path)
    if not isinstance(loaded, dict):
        raise ConfigError(
            f"Expected a schedule in {path}, found something else: fedpipe federation schedule."
        )
    return make_schedule(**loaded)


def is_due(
    home: FederationHome, schedule: Schedule, now: dt.datetime, *, tried: dt.datetime | None = None
) -> bool:
    """Returns whether a run should begin now.

    `tried` is when a scheduled run was last begun. Runs do not tell: one may have failed before it left
    a trace, or have gone on with another of long ago.
    """
    last = last_run(home.workspace())
    if schedule.cron is not None:
        begun = [schedule.since, *([tried] if tried else []), *([_begun(last[0])] if last else [])]
        return bool(croniter(schedule.cron, max(begun)).get_next(dt.datetime) <= now)
    if last is None or not (home.workspace().runs_dir / last[0] / SUMMARY).exists():
        return True  # it goes on where it stopped
    config = stored_config(last[1])
    return num_new_spans(config, config.run_spans, now.date()) >= (schedule.new_spans or 1)


def _begun(run_id: str) -> dt.datetime:
    """Returns when a run was begun, as its name says."""
    return dt.datetime.strptime(run_id[:15], "%Y%m%d-%H%M%S").replace(tzinfo=dt.timezone.utc)
