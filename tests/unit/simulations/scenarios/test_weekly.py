"""What a week leaves behind, without its runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedpipe.errors import BudgetError, ConfigError, DataError, FederationError, FedpipeError, WorkspaceError
from fedpipe.pipeline import Workspace
from simulations.scenarios import weekly
from simulations.scenarios.outcomes import Attempt, Diary
from simulations.scenarios.settings import Scenario

EXTRA = {"week": 2, "kind": "extra_run"}


class Runs:
    """Stands for the runs: notes what was asked, and dies at the wanted one."""

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[str, ...], bool, list[str]]] = []
        self.dies_at: int | None = None

    def __call__(
        self, workspace: Any, scenario: Any, number: int, files: list[Path], spans: Any, *, extra: bool
    ) -> Attempt:
        if len(self.asked) == self.dies_at:
            raise KeyboardInterrupt
        self.asked.append((spans, extra, [file.stem for file in files]))
        return Attempt(
            extra=extra,
            run_ids=(f"run-{len(self.asked)}",),
            spans=spans,
            clients=(),
            accepted=None,
            refusals={},
            fate="trained",
        )


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    found = Runs()
    monkeypatch.setattr(weekly, "_attempt", found)
    return found


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "w")


def test_an_attempt_that_has_ended_is_never_made_again(
    workspace: Workspace, runs: Runs, make_scenario: Callable[..., Scenario]
) -> None:
    scenario, diary, runs.dies_at = make_scenario(EXTRA), Diary(workspace), 1
    with pytest.raises(KeyboardInterrupt):
        weekly.live_through(workspace, scenario, 2, diary)
    assert diary.weeks() == []
    runs.dies_at = None
    week = weekly.live_through(workspace, scenario, 2, diary)
    assert [(len(spans), extra) for spans, extra, _ in runs.asked] == [(2, False), (1, True)]
    assert diary.weeks() == [week]
    assert week.events == ("an extra run on the newest week alone",)
    assert weekly.live_through(workspace, scenario, 2, diary) == week
    assert len(runs.asked) == 2


def test_a_client_that_is_away_is_not_asked_and_its_export_stays(
    workspace: Workspace, runs: Runs, make_scenario: Callable[..., Scenario]
) -> None:
    scenario, diary = make_scenario({"week": 2, "kind": "away", "clients": [3]}), Diary(workspace)
    weekly.live_through(workspace, scenario, 1, diary)
    before = {path.name: path.read_bytes() for path in (diary.directory / "exports").iterdir()}
    weekly.live_through(workspace, scenario, 2, diary)
    after = {path.name: path.read_bytes() for path in (diary.directory / "exports").iterdir()}
    assert runs.asked[1][2] == ["client-1", "client-2", "client-4"]
    assert {name for name in after if after[name] == before[name]} == {"client-3.csv"}


@pytest.mark.parametrize(
    ("error", "fate"),
    [(BudgetError("b"), "refused"), (DataError("d"), "stopped"), (FederationError("f"), "too few")],
)
def test_what_ends_a_run_as_it_should_is_a_fate(
    monkeypatch: pytest.MonkeyPatch, error: FedpipeError, fate: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(weekly, "simulate", fail)
    assert weekly._run(None, None) == (fate, str(error), None)  # type: ignore[arg-type]


def test_a_damaged_workspace_ends_the_story(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise WorkspaceError("w")

    monkeypatch.setattr(weekly, "simulate", fail)
    with pytest.raises(WorkspaceError):
        weekly._run(None, None)  # type: ignore[arg-type]


def test_a_story_may_become_longer_and_not_another(
    workspace: Workspace, make_scenario: Callable[..., Scenario]
) -> None:
    diary = Diary(workspace)
    diary.begin(make_scenario())
    diary.begin(make_scenario(weeks=9))
    with pytest.raises(ConfigError, match="other settings"):
        diary.begin(make_scenario(seed=3))


def test_a_damaged_diary_is_no_reason_to_begin_anew(
    workspace: Workspace, make_scenario: Callable[..., Scenario]
) -> None:
    diary = Diary(workspace)
    diary.begin(make_scenario())
    (diary.directory / "week-0001.json").write_text("{}")
    with pytest.raises(WorkspaceError, match="damaged"):
        diary.weeks()
