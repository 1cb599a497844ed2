"""Beginning, end and resumption of a run, around a pipeline of one step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timezone
from pathlib import Path

import pytest
from pydantic import BaseModel

from fedpipe.config import parse_config
from fedpipe.errors import (
    BudgetError,
    DataError,
    FederationError,
    PrivacyError,
    Shortfall,
    WorkspaceError,
)
from fedpipe.federation import Refusal, Reply, Request
from fedpipe.federation.terms import RunTerms
from fedpipe.pipeline import MetadataStore, Pipeline, SilentProgress, Step, Workspace
from fedpipe.privacy import PrivacyPlan
from server import coordinator
from server.claims import CHARGED, CLAIM, Claim
from server.coordinator import TERMS, RunRequest, run_cycle

CONFIG = {
    "name": "small",
    "schema": {
        "label": {"name": "ill", "classes": {"no": [], "yes": []}},
        "columns": {"age": {"type": "numeric", "minimum": 0, "maximum": 100}},
    },
}


class Note(BaseModel):
    """What the only step makes."""

    text: str = "done"


class Recording:
    """Clients that only finish runs."""

    def __init__(self) -> None:
        self.finished: list[str] = []

    def ask(
        self, request: Request, *, timeout_seconds: float, only: Collection[str] | None = None
    ) -> tuple[list[Reply], list[Refusal]]:
        assert request.step == "finish"
        self.finished.append(request.run_id)
        return [Reply(client="a", values={"closed": True})], []


class World:
    """A workspace, clients, and a step that fails when told to."""

    def __init__(self, root: Path) -> None:
        self.workspace = Workspace(root)
        self.clients = Recording()
        self.failure: BaseException | None = None
        self.calls = 0
        self.plans = 0

    def step(self, *, directory: Path) -> Mapping[str, BaseModel]:
        self.calls += 1
        (directory.parent / CLAIM).write_text(Claim(steps=CHARGED).model_dump_json())
        if self.failure is not None:
            raise self.failure
        return {"note": Note()}

    def run(self, run_id: str) -> None:
        request = RunRequest(
            config=parse_config(CONFIG, source="test"), workspace=self.workspace, run_id=run_id, seed=0
        )
        run_cycle(
            request,
            self.clients,
            progress=SilentProgress(),
            clock=lambda: datetime(2024, 1, 2, tzinfo=timezone.utc),
        )

    @property
    def metadata(self) -> MetadataStore:
        return MetadataStore.open(self.workspace.metadata_path)

    def statuses(self) -> dict[str, str]:
        return {run.run_id: run.status for run in self.metadata.runs()}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_terms: Callable[..., RunTerms]) -> World:
    world = World(tmp_path / "workspace")

    def make(config: object) -> RunTerms:
        world.plans += 1
        return make_terms()

    def pipeline(around: object) -> Pipeline:
        step = Step(name="only", function=world.step, inputs=(), outputs={"note": Note}, settings={})
        return Pipeline([step])

    monkeypatch.setattr(coordinator, "make_terms", make)
    monkeypatch.setattr(coordinator, "make_pipeline", pipeline)
    monkeypatch.setattr(PrivacyPlan, "total_epsilon", lambda plan: 5.0)
    return world


def test_a_run_is_recorded_with_its_price_and_its_claim_is_closed(world: World) -> None:
    world.run("run-1")
    [run] = world.metadata.runs()
    assert (run.status, run.pipeline, run.claim_id) == ("COMPLETE", "small", "run-1")
    assert (run.epsilon, run.delta) == (5.0, 1e-5)
    assert world.clients.finished == ["run-1"]


def test_terms_are_made_once_and_read_ever_after(world: World) -> None:
    world.failure = FederationError("Expected answers, found none.")
    with pytest.raises(FederationError):
        world.run("run-1")
    path = world.workspace.runs_dir / "run-1" / TERMS
    before = path.read_bytes()
    world.failure = None
    world.run("run-1")
    assert (world.plans, world.calls) == (1, 2)
    assert path.read_bytes() == before
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_failed_run_keeps_its_claim_until_nobody_can_go_on_with_it(world: World) -> None:
    world.failure = FederationError("Expected answers, found none.")
    with pytest.raises(FederationError):
        world.run("run-1")
    assert world.statuses() == {"run-1": "FAILED"}
    assert world.clients.finished == []
    world.failure = None
    world.run("run-2")
    assert world.clients.finished == ["run-1", "run-2"]


def test_data_that_is_not_fit_ends_the_run_and_its_claim(world: World) -> None:
    world.failure = DataError("Expected data fit for training, found one class.")
    with pytest.raises(DataError):
        world.run("run-1")
    assert world.clients.finished == ["run-1"]
    [run] = world.metadata.runs()
    assert (run.status, run.claim_closed) == ("FAILED", True)


def test_a_run_that_claimed_nothing_has_nothing_to_close(world: World) -> None:
    world.run("run-1")
    (world.workspace.runs_dir / "run-1" / CLAIM).unlink()
    world.metadata.create_run(
        "run-2", pipeline="small", config_digest="c", created_at=datetime(2024, 1, 1, tzinfo=timezone.utc)
    )
    world.run("run-3")
    assert world.clients.finished == ["run-1"]


def test_a_claim_that_no_owner_knows_stays_open(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other data, other owners: theirs is closed when they are asked again."""
    world.failure = FederationError("Expected answers, found none.")
    with pytest.raises(FederationError):
        world.run("run-1")
    world.failure = None
    with monkeypatch.context() as patch:
        patch.setattr(world.clients, "ask", lambda request, *, timeout_seconds: ([Reply(client="b")], []))
        world.run("run-2")
    world.run("run-3")  # from the cache: it claims nothing itself
    assert world.clients.finished == ["run-1"]


def test_a_refused_budget_names_settings_that_would_fit(world: World) -> None:
    shortfall = Shortfall(
        block="a/undated/train",
        split="train",
        requested=2,
        remaining=0.5,
        renyi_order=4,
        epsilon=3,
        delta=1e-5,
    )
    world.failure = BudgetError("Requested: 2, remaining: 1, difference: 1.", [shortfall])
    with pytest.raises(BudgetError, match=r"difference: 1\.\nWays out: .*\n  1\. --set .*") as caught:
        world.run("run-1")
    assert caught.value.shortfalls == (shortfall,)


def test_an_interrupted_run_is_recorded_as_such(world: World) -> None:
    world.failure = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        world.run("run-1")
    assert world.statuses() == {"run-1": "CANCELED"}


def test_going_on_with_a_run_neither_records_nor_closes_it_twice(world: World) -> None:
    world.run("run-1")
    world.run("run-1")
    assert world.statuses() == {"run-1": "COMPLETE"}
    assert world.calls == 1
    assert world.clients.finished == ["run-1"]


def test_a_run_whose_process_died_is_failed_when_the_next_begins(world: World) -> None:
    world.metadata.create_run(
        "run-1", pipeline="small", config_digest="c", created_at=datetime(2024, 1, 1, tzinfo=timezone.utc)
    )
    world.run("run-2")
    assert world.statuses() == {"run-1": "FAILED", "run-2": "COMPLETE"}


def test_a_run_that_died_before_it_was_recorded_can_go_on(world: World) -> None:
    """Its terms are there, its record is not."""
    world.failure = PrivacyError("never reached")
    world.workspace.make_step_dir("run-1", "ingest")
    coordinator._frozen_terms(
        RunRequest(
            config=parse_config(CONFIG, source="test"),
            workspace=world.workspace,
            run_id="run-1",
            seed=0,
        )
    )
    world.failure = None
    world.run("run-1")
    assert world.statuses() == {"run-1": "COMPLETE"}
    assert world.plans == 1


def test_a_plan_that_cannot_be_made_records_no_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(config: object) -> RunTerms:
        raise PrivacyError("Expected a larger epsilon.")

    monkeypatch.setattr(coordinator, "make_terms", fail)
    with pytest.raises(PrivacyError):
        world.run("run-1")
    assert not world.workspace.metadata_path.exists()


@pytest.mark.parametrize("content", ["", "{}", '{"version": 2}'])
def test_damaged_terms_stop_a_resumed_run(world: World, content: str) -> None:
    directory = world.workspace.make_step_dir("run-1", "ingest").parent
    (directory / TERMS).write_text(content)
    with pytest.raises(WorkspaceError, match="start a new run"):
        world.run("run-1")
