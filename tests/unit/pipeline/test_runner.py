"""Running, failing, resuming."""

from __future__ import annotations

import functools
import json
import logging
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import BaseModel

from fedpipe.errors import BudgetError, ConfigError, PipelineError
from fedpipe.pipeline import MetadataStore, Pipeline, SilentProgress, Step, Workspace, run_pipeline
from fedpipe.pipeline.fingerprint import code_digest, fingerprint


class Spans(BaseModel):
    num_records: int


class Model(BaseModel):
    weight: float


class Evaluation(BaseModel):
    auc: float


class LargeModel(Model):
    layers: int = 2


@dataclass
class Calls:
    """Counts calls of steps, and fails in the one that it is told to."""

    names: list[str] = field(default_factory=list)
    failure: BaseException | None = None
    weight: float = 0.5

    def ingest(self, *, directory: Path) -> Mapping[str, BaseModel]:
        self.names.append("ingest")
        return {"spans": Spans(num_records=3)}

    def train(self, *, directory: Path, spans: Spans) -> Mapping[str, BaseModel]:
        self.names.append("train")
        (directory / "weights").mkdir(exist_ok=True)
        (directory / "weights" / "0.txt").write_text(str(self.weight))
        if self.failure is not None:
            raise self.failure
        return {"model": Model(weight=spans.num_records * 0.5)}

    def analyze(self, *, directory: Path, model: Model, spans: Spans) -> Mapping[str, BaseModel]:
        self.names.append("analyze")
        return {"evaluation": Evaluation(auc=model.weight / spans.num_records)}

    def pipeline(self, **train_settings: Any) -> Pipeline:
        return Pipeline(
            [
                Step(name="ingest", function=self.ingest, inputs=(), outputs={"spans": Spans}, settings={}),
                Step(
                    name="train",
                    function=self.train,
                    inputs=("spans",),
                    outputs={"model": Model},
                    settings=train_settings,
                ),
                Step(
                    name="analyze",
                    function=self.analyze,
                    inputs=("model", "spans"),
                    outputs={"evaluation": Evaluation},
                    settings={},
                ),
            ]
        )


class RecordedProgress(SilentProgress):
    def __init__(self) -> None:
        self.lines: list[tuple[object, ...]] = []

    def step_started(self, name: str, index: int, total: int) -> None:
        self.lines.append((name, index, total))

    def step_finished(self, name: str, seconds: float, status: str) -> None:
        self.lines.append((name, seconds, status))


Run = Callable[..., dict[str, BaseModel]]


@pytest.fixture
def run(workspace: Workspace, metadata: MetadataStore, clock: Callable[[], datetime]) -> Run:
    """Runs a pipeline as run-1."""
    return functools.partial(
        run_pipeline,
        workspace=workspace,
        metadata=metadata,
        run_id="run-1",
        progress=SilentProgress(),
        clock=clock,
    )


@pytest.fixture
def calls() -> Calls:
    return Calls()


def _states(metadata: MetadataStore) -> list[tuple[str, str]]:
    return [(execution.step, execution.state) for execution in metadata.executions("run-1")]


def _single(function: Callable[..., Any]) -> Pipeline:
    return Pipeline([Step(name="train", function=function, inputs=(), outputs={"model": Model}, settings={})])


def test_artifacts_of_all_steps_are_returned(run: Run, calls: Calls) -> None:
    assert run(calls.pipeline()) == {
        "spans": Spans(num_records=3),
        "model": Model(weight=1.5),
        "evaluation": Evaluation(auc=0.5),
    }
    assert calls.names == ["ingest", "train", "analyze"]


def test_artifacts_are_written_for_their_owner_only(run: Run, calls: Calls, workspace: Workspace) -> None:
    run(calls.pipeline())
    path = workspace.runs_dir / "run-1" / "train" / "model.json"
    assert path.read_text() == '{\n  "weight": 1.5\n}\n'
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_run_is_recorded_with_lineage_and_times(run: Run, calls: Calls, metadata: MetadataStore) -> None:
    run(calls.pipeline())
    assert metadata.run("run-1").status == "COMPLETE"
    assert _states(metadata) == [("ingest", "COMPLETE"), ("train", "COMPLETE"), ("analyze", "COMPLETE")]
    train, analyze = metadata.executions("run-1")[1:]
    assert train.duration_seconds == 1.0
    assert list(train.payloads) == ["weights/0.txt"]
    assert [each.name for each in metadata.inputs_of(analyze.id)] == ["spans", "model"]
    assert [each.uri for each in metadata.outputs_of(analyze.id)] == ["runs/run-1/analyze/evaluation.json"]
    assert [each.type_name for each in metadata.artifacts("run-1")] == ["Spans", "Model", "Evaluation"]


def test_progress_hears_of_every_step(run: Run, calls: Calls) -> None:
    progress = RecordedProgress()
    run(calls.pipeline(), progress=progress)
    assert progress.lines[:3] == [("ingest", 1, 3), ("ingest", 3.0, "COMPLETE"), ("train", 2, 3)]
    progress.lines.clear()
    run(calls.pipeline(), progress=progress)
    assert progress.lines[:3] == [("ingest", 1, 3), ("ingest", 1.0, "CACHED"), ("train", 2, 3)]


def test_failed_step_is_recorded_and_raised(run: Run, calls: Calls, metadata: MetadataStore) -> None:
    calls.failure = BudgetError("Requested 2, remaining 1.")
    progress = RecordedProgress()
    with pytest.raises(BudgetError):
        run(calls.pipeline(), progress=progress)
    assert _states(metadata) == [("ingest", "COMPLETE"), ("train", "FAILED")]
    assert metadata.executions("run-1")[1].message == "Requested 2, remaining 1."
    assert (metadata.run("run-1").status, metadata.run("run-1").message) == (
        "FAILED",
        "Requested 2, remaining 1.",
    )
    assert progress.lines[-1][0::2] == ("train", "FAILED")


def test_text_of_a_foreign_error_is_not_recorded(run: Run, calls: Calls, metadata: MetadataStore) -> None:
    calls.failure = KeyError("a complaint of a person")
    with pytest.raises(KeyError):
        run(calls.pipeline())
    assert metadata.executions("run-1")[1].message == metadata.run("run-1").message == "KeyError"


def test_keyboard_interrupt_cancels(run: Run, calls: Calls, metadata: MetadataStore) -> None:
    calls.failure = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run(calls.pipeline())
    assert _states(metadata)[1] == ("train", "CANCELED")
    assert metadata.run("run-1").status == "CANCELED"


def test_run_resumes_at_the_step_that_failed(run: Run, calls: Calls, metadata: MetadataStore) -> None:
    calls.failure = ConnectionError()
    with pytest.raises(ConnectionError):
        run(calls.pipeline())
    calls.failure = None
    calls.names.clear()
    assert run(calls.pipeline())["evaluation"] == Evaluation(auc=0.5)
    assert calls.names == ["train", "analyze"]
    assert [state for _, state in _states(metadata)] == ["COMPLETE", "FAILED", "COMPLETE", "COMPLETE"]
    assert (metadata.run("run-1").status, metadata.run("run-1").message) == ("COMPLETE", "")


def test_complete_run_is_loaded_without_running_or_recording(
    run: Run, calls: Calls, metadata: MetadataStore
) -> None:
    first = run(calls.pipeline())
    before = metadata.executions("run-1")
    calls.names.clear()
    assert run(calls.pipeline()) == first
    assert calls.names == []
    assert metadata.executions("run-1") == before


def test_another_run_does_not_reuse_this_one(run: Run, calls: Calls, metadata: MetadataStore) -> None:
    run(calls.pipeline())
    metadata.create_run(
        "run-2",
        pipeline="lifecycle",
        config_digest="",
        created_at=datetime.fromisoformat("2024-01-03T00:00:00+00:00"),
    )
    calls.names.clear()
    run(calls.pipeline(), run_id="run-2")
    assert calls.names == ["ingest", "train", "analyze"]


@pytest.mark.parametrize("damage", [lambda path: path.write_text("{}"), Path.unlink])
def test_damaged_artifact_runs_its_step_again(
    run: Run,
    calls: Calls,
    workspace: Workspace,
    metadata: MetadataStore,
    damage: Callable[[Path], object],
    caplog: pytest.LogCaptureFixture,
) -> None:
    run(calls.pipeline())
    path = workspace.runs_dir / "run-1" / "train" / "model.json"
    damage(path)
    calls.names.clear()
    with caplog.at_level(logging.WARNING):
        assert run(calls.pipeline())["model"] == Model(weight=1.5)
    assert calls.names == ["train"]
    assert "Step train runs again" in caplog.text
    assert json.loads(path.read_text()) == {"weight": 1.5}
    assert [each.name for each in metadata.artifacts("run-1")] == ["spans", "evaluation", "model"]


def test_changed_payload_runs_its_step_and_those_after_it_again(
    run: Run, calls: Calls, workspace: Workspace
) -> None:
    run(calls.pipeline())
    weights = workspace.runs_dir / "run-1" / "train" / "weights" / "0.txt"
    weights.unlink()
    calls.names.clear()
    calls.weight = 0.25
    run(calls.pipeline())
    assert calls.names == ["train", "analyze"]


def test_file_added_later_does_not_run_a_step_again(run: Run, calls: Calls, workspace: Workspace) -> None:
    run(calls.pipeline())
    (workspace.runs_dir / "run-1" / "train" / "notes.txt").touch()
    calls.names.clear()
    run(calls.pipeline())
    assert calls.names == []


def test_changed_setting_runs_the_step_again_but_not_what_it_leaves_the_same(run: Run, calls: Calls) -> None:
    run(calls.pipeline(clipping_norm=1.0))
    calls.names.clear()
    run(calls.pipeline(clipping_norm=2.0))
    assert calls.names == ["train"]


@pytest.mark.parametrize(
    ("returned", "found"),
    [
        ({}, "found none"),
        (None, "found a NoneType instead of a mapping"),
        ({"model": Model(weight=1), "extra": Model(weight=1)}, "found extra, model"),
        ({"model": Spans(num_records=1)}, "found model of type Spans"),
        ({"model": LargeModel(weight=1)}, "found model of type LargeModel"),
        ({"model": {"weight": 1.0}}, "found model of type dict"),
        ({"model": Model(weight=float("nan"))}, "cannot at: weight"),
    ],
)
def test_outputs_other_than_declared_are_refused(
    run: Run, metadata: MetadataStore, workspace: Workspace, returned: object, found: str
) -> None:
    with pytest.raises(PipelineError, match=found):
        run(_single(lambda directory: returned))
    assert _states(metadata) == [("train", "FAILED")]
    assert metadata.artifacts("run-1") == []
    assert not (workspace.runs_dir / "run-1" / "train" / "model.json").exists()


def test_unknown_run_is_refused_before_anything_runs(run: Run, calls: Calls) -> None:
    with pytest.raises(ConfigError, match="Did you mean run-1"):
        run(calls.pipeline(), run_id="run-9")
    assert calls.names == []


def test_step_without_source_is_refused_and_recorded(run: Run, metadata: MetadataStore) -> None:
    with pytest.raises(PipelineError, match="source file"):
        run(_single(dict))
    assert metadata.run("run-1").status == "FAILED"


def test_fingerprint_changes_with_all_that_may_change_the_result(calls: Calls) -> None:
    step = calls.pipeline().steps[1]
    same = fingerprint(step, {"spans": "d1"})
    assert same == fingerprint(replace(step), {"spans": "d1"})
    others = [
        fingerprint(step, {"spans": "d2"}),
        fingerprint(replace(step, name="tune"), {"spans": "d1"}),
        fingerprint(replace(step, settings={"rounds": 2}), {"spans": "d1"}),
        fingerprint(replace(step, function=cast("Any", json.dumps)), {"spans": "d1"}),
    ]
    assert len({same, *others}) == 5


def test_code_digest_looks_behind_partials_and_wrappers(calls: Calls) -> None:
    @functools.wraps(json.dumps)
    def wrapper() -> None: ...

    assert code_digest(functools.partial(functools.partial(json.dumps, indent=1), 2)) == code_digest(
        json.dumps
    )
    assert code_digest(wrapper) == code_digest(json.dumps)
    assert code_digest(calls.train) == code_digest(test_code_digest_looks_behind_partials_and_wrappers)
