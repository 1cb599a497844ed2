"""Runs a pipeline: each step once, on record, and never again while its outputs stand."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import BaseModel

from fedpipe.errors import FedpipeError
from fedpipe.pipeline.artifacts import (
    Artifact,
    are_payloads_intact,
    artifact_path,
    check_outputs,
    digest_payloads,
    read_artifact,
    write_artifact,
)
from fedpipe.pipeline.fingerprint import fingerprint
from fedpipe.pipeline.metadata import MetadataStore
from fedpipe.pipeline.pipeline import Pipeline
from fedpipe.pipeline.progress import Progress
from fedpipe.pipeline.records import ArtifactFile, ExecutionRecord, ExecutionState
from fedpipe.pipeline.step import Step
from fedpipe.pipeline.workspace import Workspace

Clock = Callable[[], datetime]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Run:
    workspace: Workspace
    metadata: MetadataStore
    run_id: str
    progress: Progress
    clock: Clock

    def seconds_since(self, moment: datetime) -> float:
        return max(0.0, (self.clock() - moment).total_seconds())


def run_pipeline(
    pipeline: Pipeline,
    *,
    workspace: Workspace,
    metadata: MetadataStore,
    run_id: str,
    progress: Progress,
    clock: Clock,
) -> dict[str, BaseModel]:
    """Returns every artifact of the pipeline by name, made now or loaded from an earlier try of this run.

    A step is loaded if this run has a COMPLETE execution of it with the same fingerprint whose
    files still have the recorded digests. The caller holds the workspace's lock and has made
    the run with `MetadataStore.create_run`; the runner sets its status.

    Args:
        pipeline: the steps.
        workspace: where artifacts and payloads go.
        metadata: where runs, executions and artifacts are recorded.
        run_id: the run to begin or to resume.
        progress: is told when each step begins and ends.
        clock: the time now, with its zone.

    Raises:
        ConfigError: the run is not recorded.
        PipelineError: a step returned something other than it declares.
    """
    run = _Run(workspace=workspace, metadata=metadata, run_id=run_id, progress=progress, clock=clock)
    made: dict[str, Artifact] = {}
    with _recorded_status(run):
        for index, step in enumerate(pipeline.steps, start=1):
            progress.step_started(step.name, index, len(pipeline.steps))
            made.update(_follow(run, step, {name: made[name] for name in step.inputs}))
    return {name: artifact.value for name, artifact in made.items()}


@contextmanager
def _recorded_status(run: _Run) -> Iterator[None]:
    """Records that the run is under way, and how it ended."""
    run.metadata.update_run(run.run_id, status="RUNNING", message="")
    try:
        yield
    except BaseException as error:
        status, message = _outcome(error)
        run.metadata.update_run(run.run_id, status=status, message=message)
        raise
    run.metadata.update_run(run.run_id, status="COMPLETE")


def _follow(run: _Run, step: Step, inputs: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """Returns the step's outputs, and tells the progress how it ended."""
    started = run.clock()
    status: ExecutionState = "CACHED"
    try:
        key = fingerprint(step, {name: artifact.content_digest for name, artifact in inputs.items()})
        outputs = _load(run, step, key)
        if outputs is None:
            outputs, status = _execute(run, step, key, inputs), "COMPLETE"
    except BaseException as error:
        run.progress.step_finished(step.name, run.seconds_since(started), _outcome(error)[0])
        raise
    run.progress.step_finished(step.name, run.seconds_since(started), status)
    return outputs


def _candidates(run: _Run, step: Step, key: str) -> list[ExecutionRecord]:
    """Returns the executions that may stand for the step, newest first: those of this run."""
    executions = reversed(run.metadata.executions(run.run_id))
    wanted = (step.name, key, "COMPLETE")
    return [each for each in executions if (each.step, each.fingerprint, each.state) == wanted]


def _load(run: _Run, step: Step, key: str) -> dict[str, Artifact] | None:
    """Returns the outputs of an earlier execution with this fingerprint, or None if none is intact."""
    candidates = _candidates(run, step, key)
    for execution in candidates:
        outputs = _load_outputs(run, step, execution)
        if outputs is not None:
            return outputs
    if candidates:
        _logger.warning("Step %s runs again: files that it had made are missing or changed.", step.name)
    return None


def _load_outputs(run: _Run, step: Step, execution: ExecutionRecord) -> dict[str, Artifact] | None:
    records = {record.name: record for record in run.metadata.outputs_of(execution.id)}
    if {name: record.type_name for name, record in records.items()} != _declared(step):
        return None
    if not are_payloads_intact(run.workspace.step_dir(execution.run_id, execution.step), execution.payloads):
        return None
    outputs: dict[str, Artifact] = {}
    for name, kind in step.outputs.items():
        value = read_artifact(run.workspace.root / records[name].uri, kind, records[name].digest)
        if value is None:
            return None
        outputs[name] = Artifact(value=value, record=records[name], payloads=execution.payloads)
    return outputs


def _declared(step: Step) -> dict[str, str]:
    return {name: kind.__name__ for name, kind in step.outputs.items()}


def _execute(run: _Run, step: Step, key: str, inputs: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """Runs the step on record and returns what it made."""
    records = [artifact.record for artifact in inputs.values()]
    started = run.clock()
    execution_id = run.metadata.start_execution(
        run.run_id, step.name, fingerprint=key, started_at=started, inputs=records
    )
    try:
        values, files, payloads = _call(run, step, inputs)
    except BaseException as error:
        state, message = _outcome(error)
        run.metadata.finish_execution(
            execution_id, state=state, duration_seconds=run.seconds_since(started), message=message
        )
        raise
    made = run.metadata.finish_execution(
        execution_id,
        state="COMPLETE",
        duration_seconds=run.seconds_since(started),
        outputs=files,
        payloads=payloads,
    )
    return {each.name: Artifact(value=values[each.name], record=each, payloads=payloads) for each in made}


def _call(
    run: _Run, step: Step, inputs: Mapping[str, Artifact]
) -> tuple[dict[str, BaseModel], list[ArtifactFile], dict[str, str]]:
    """Returns the step's outputs, their files and the digests of its payloads."""
    directory = run.workspace.make_step_dir(run.run_id, step.name)
    arguments = {name: artifact.value for name, artifact in inputs.items()}
    values = check_outputs(step, step.function(directory=directory, **arguments))
    files: list[ArtifactFile] = []
    for name, type_name in _declared(step).items():
        path = artifact_path(directory, name)
        values[name], digest = write_artifact(path, values[name])
        files.append(ArtifactFile(name=name, type_name=type_name, uri=run.workspace.uri(path), digest=digest))
    return values, files, digest_payloads(directory, step.outputs)


def _outcome(error: BaseException) -> tuple[Literal["FAILED", "CANCELED"], str]:
    """Returns the state and the message to record: of errors that are not ours, the class only.

    Their text may hold a record or a path of the data; ours never does.
    """
    state: Literal["FAILED", "CANCELED"] = "CANCELED" if isinstance(error, KeyboardInterrupt) else "FAILED"
    return state, str(error) if isinstance(error, FedpipeError) else type(error).__name__
