"""Running, failing, resuming."""

from __future__ import annotations

import functools
import itertools
import json
import logging
import shutil
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
from fedpipe.pipeline.fingerprint import Fingerprint, fingerprint


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
        timer=functools.partial(next, itertools.count(0.0, 2.0)),
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
    assert train.duration_seconds == 2.0
    assert list(train.payloads) == ["weights/0.txt"]
    assert [each.name for each in metadata.inputs_of(analyze.id)] == ["spans", "model"]
    assert [each.uri for each in metadata.outputs_of(analyze.id)] == ["runs/run-1/analyze/evaluation.json"]
    assert [each.type_name for each in metadata.artifacts("run-1")] == ["Spans", "Model", "Evaluation"]


def test_progress_hears_of_every_step(run: Run, calls: Calls) -> None:
    progress = RecordedProgress()
    run(calls.pipeline(), progress=progress)
    assert progress.lines[:3] == [("ingest", 1, 3), ("ingest", 4.0, "COMPLETE"), ("train", 2, 3)]
    progress.lines.clear()
    run(calls.pipeline(), progress=progress)
    assert progress.lines[:3] == [("ingest", 1, 3), ("ingest", 2.0, "CACHED"), ("train", 2, 3)]


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


@pytest.fixture
def second(metadata: MetadataStore) -> str:
    """Another run of the same pipeline."""
    created_at = datetime.fromisoformat("2024-01-03T00:00:00+00:00")
    metadata.create_run("run-2", pipeline="lifecycle", config_digest="", created_at=created_at)
    return "run-2"


def _told(metadata: MetadataStore, run_id: str) -> list[tuple[str, str, str]]:
    return [(each.step, each.state, each.because) for each in metadata.executions(run_id)]


def test_another_run_takes_over_what_did_not_change_and_says_from_where(
    run: Run, calls: Calls, metadata: MetadataStore, workspace: Workspace, second: str
) -> None:
    first = run(calls.pipeline())
    calls.names.clear()
    assert run(calls.pipeline(), run_id=second) == first
    assert calls.names == []
    origin = "cached from run run-1"
    assert _told(metadata, second) == [(step, "CACHED", origin) for step in ("ingest", "train", "analyze")]
    taken = [[each.id for each in metadata.artifacts(run_id)] for run_id in ("run-1", second)]
    assert taken[0] == taken[1]
    assert (workspace.runs_dir / second / "train" / "weights" / "0.txt").read_text() == "0.5"
    assert [each.name for each in metadata.inputs_of(metadata.executions(second)[1].id)] == ["spans"]


def test_what_a_run_took_over_serves_the_next_when_the_original_is_gone(
    run: Run, calls: Calls, metadata: MetadataStore, workspace: Workspace, second: str
) -> None:
    first = run(calls.pipeline())
    run(calls.pipeline(), run_id=second)
    shutil.rmtree(workspace.runs_dir / "run-1")
    calls.names.clear()
    assert run(calls.pipeline(), run_id=second) == first
    assert calls.names == []


def test_without_reuse_everything_runs_again(run: Run, calls: Calls, second: str) -> None:
    run(calls.pipeline())
    calls.names.clear()
    run(calls.pipeline(), run_id=second, reuse=False)
    assert calls.names == ["ingest", "train", "analyze"]


def test_lineage_says_why_a_step_ran(run: Run, calls: Calls, metadata: MetadataStore, second: str) -> None:
    run(calls.pipeline(rounds=3))
    calls.weight = 0.25
    run(calls.pipeline(rounds=4), run_id=second)
    assert [why for *_, why in _told(metadata, "run-1")] == ["it never ran before"] * 3
    assert [why for *_, why in _told(metadata, second)] == [
        "cached from run run-1",
        "rounds changed from 3 to 4",
        "its input model changed",
    ]


def test_step_that_looks_at_the_world_always_runs(
    run: Run, calls: Calls, metadata: MetadataStore, second: str
) -> None:
    def pipeline() -> Pipeline:
        steps = calls.pipeline().steps
        return Pipeline([replace(steps[0], cacheable=False), *steps[1:]])

    run(pipeline())
    calls.names.clear()
    run(pipeline())
    run(pipeline(), run_id=second)
    assert calls.names == ["ingest", "ingest"]
    assert _told(metadata, second)[0] == ("ingest", "COMPLETE", "it always runs")


def test_outputs_that_no_longer_hold_are_made_again(run: Run, calls: Calls, second: str) -> None:
    holds = True

    def pipeline() -> Pipeline:
        steps = calls.pipeline().steps
        return Pipeline([*steps[:2], replace(steps[2], still_holds=lambda outputs: holds)])

    run(pipeline())
    calls.names.clear()
    run(pipeline(), run_id=second)
    assert calls.names == []
    holds = False
    run(pipeline(), run_id=second)
    assert calls.names == ["analyze"]


def test_link_that_a_killed_process_left_is_no_obstacle(
    run: Run, calls: Calls, workspace: Workspace, second: str
) -> None:
    run(calls.pipeline())
    left = workspace.make_step_dir(second, "train") / "model.json"
    left.write_text("half")
    assert run(calls.pipeline(), run_id=second)["model"] == Model(weight=1.5)
    assert json.loads(left.read_text()) == {"weight": 1.5}


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


def test_scratch_lasts_until_its_step_is_on_record(run: Run, workspace: Workspace) -> None:
    tries: list[bool] = []

    def train(*, directory: Path) -> Mapping[str, BaseModel]:
        checkpoint = directory / "checkpoint"
        tries.append(checkpoint.exists())
        checkpoint.write_text("half")
        if len(tries) == 1:
            raise RuntimeError("killed")
        return {"model": Model(weight=1.0)}

    pipeline = Pipeline(
        [
            Step(
                name="train",
                function=train,
                inputs=(),
                outputs={"model": Model},
                settings={},
                scratch=("checkpoint",),
            )
        ]
    )
    directory = workspace.runs_dir / "run-1" / "train"
    with pytest.raises(RuntimeError):
        run(pipeline)
    assert (directory / "checkpoint").exists()
    run(pipeline)
    assert not (directory / "checkpoint").exists()
    (directory / "checkpoint").write_text("what a process left that was killed between the two")
    run(pipeline)
    assert not (directory / "checkpoint").exists()
    assert tries == [False, True]


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
    assert len({each.digest for each in (same, *others)}) == 5


def test_fingerprint_looks_behind_partials_and_wrappers(calls: Calls) -> None:
    @functools.wraps(json.dumps)
    def wrapper() -> None: ...

    step = calls.pipeline().steps[1]

    def code(function: Any) -> str:
        return fingerprint(replace(step, function=function), {}).parts["code"]

    assert code(functools.partial(functools.partial(json.dumps, indent=1), 2)) == code(json.dumps)
    assert code(wrapper) == code(json.dumps)
    assert code(calls.train) == code(test_fingerprint_looks_behind_partials_and_wrappers)
    assert code(calls.train) != code(json.dumps)


def test_words_for_a_change_name_settings_first_and_stay_short() -> None:
    now = Fingerprint(
        parts={"code": "c2", "input.spans": "2", "settings.a": "1", "settings.b.c": "2", "settings.d": "3"}
    )
    before = {
        "code": "c1",
        "input.spans": "1",
        "settings.b.c": "1",
        "settings.d": "sha256:0",
        "settings.e": "0",
    }
    assert now.changes_since(before) == "a is new; b.c changed from 1 to 2; d changed; 3 more"
    assert now.changes_since({**now.parts, "input.spans": "1"}) == "its input spans changed"
    assert now.changes_since({**now.parts, "code": "c1"}) == "the code changed"
