"""What came of each week: one small file a week, written when the week is over."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from fedpipe.errors import ConfigError, WorkspaceError
from fedpipe.files import write_text
from fedpipe.learning.evaluation import Estimate
from fedpipe.pipeline import Workspace
from simulations.scenarios.settings import Scenario

Fate = Literal["trained", "refused", "stopped", "too few"]


Kept = TypeVar("Kept", bound=BaseModel)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Attempt(_Frozen):
    """One run of a week, and what came of it. All but `exact_auc` is charged or public.

    Attributes:
      extra: whether it is beside the week's own run.
      run_ids: usually one; a process that died just after the run's end leads to a second, at no cost.
      spans: that it asked for, oldest first.
      clients: that were there to be asked.
      accepted: clients whose ledger admitted the claim, None if none was made.
      refusals: by client, why it did not take part.
      fate: trained; refused by budgets; stopped by the validation of data; or too few clients.
      reason: what was said when it was not trained.
      newest_records: noisy number of labelled records in the newest span.
      positive_share: of the newest span.
      exact_auc: known in simulation only.
    """

    extra: bool
    run_ids: tuple[str, ...]
    spans: tuple[str, ...]
    clients: tuple[str, ...]
    accepted: tuple[str, ...] | None
    refusals: dict[str, str]
    fate: Fate
    reason: str = ""
    model_version: str | None = None
    auc: Estimate | None = None
    newest_records: int | None = None
    positive_share: Estimate | None = None
    alerts: tuple[str, ...] = ()
    exact_auc: float | None = None


class Week(_Frozen):
    """A week, and those of its attempts that have come to an end."""

    number: int
    span: str
    events: tuple[str, ...]
    attempts: tuple[Attempt, ...] = ()
    seconds: float = 0.0
    is_over: bool = False

    @property
    def own(self) -> Attempt:
        """The week's own run."""
        return next(attempt for attempt in self.attempts if not attempt.extra)


class Diary:
    """The weeks that are over, in a folder of the workspace; with the scenario that they belong to."""

    def __init__(self, workspace: Workspace) -> None:
        self.directory = workspace.root / "scenario"

    def begin(self, scenario: Scenario) -> None:
        """Keeps the scenario, or makes sure that it is the one that was begun here; it may be longer.

        Raises:
          ConfigError: it is another one.
        """
        path = self.directory / "scenario.json"
        if path.exists():
            known = _read(path, Scenario)
            if _story(known) != _story(scenario):
                raise ConfigError(
                    f"Expected the scenario that was begun in {self.directory}, found other settings: repeat "
                    "its command, or choose another --workspace."
                )
        write_text(path, scenario.model_dump_json(indent=2) + "\n")

    def weeks(self) -> list[Week]:
        """Returns the weeks that are over, in order."""
        found = (_read(path, Week) for path in self.directory.glob("week-*.json"))
        return sorted((week for week in found if week.is_over), key=lambda week: week.number)

    def week(self, number: int) -> Week | None:
        """Returns what is known of a week, or None before its first attempt has ended."""
        path = self._path(number)
        return _read(path, Week) if path.exists() else None

    def keep(self, week: Week) -> None:
        """Keeps what is known of a week, durably."""
        write_text(self._path(week.number), week.model_dump_json(indent=2) + "\n")

    def _path(self, number: int) -> Path:
        return self.directory / f"week-{number:04d}.json"


def _story(scenario: Scenario) -> dict[str, Any]:
    return scenario.model_dump(exclude={"weeks"})


def _read(path: Path, kind: type[Kept]) -> Kept:
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise WorkspaceError(
            f"Expected {path} as the scenario wrote it, found it damaged: choose another --workspace."
        ) from error
