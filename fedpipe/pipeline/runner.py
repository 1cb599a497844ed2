"""Runs a pipeline: each step once, on record, and never again while its outputs stand."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import BaseModel

from fedpipe.errors import FedpipeError
from fedpipe.pipeline.artifacts import Artifact, artifact_path, check_outputs, digest_payloads, write_artifact
from fedpipe.pipeline.cache import Cache, Hit
from fedpipe.pipeline.fingerprint import Fingerprint, fingerprint
from fedpipe.pipeline.metadata import MetadataStore
from fedpipe.pipeline.pipeline import Pipeline
from fedpipe.pipeline.progress import Progress
from fedpipe.pipeline.records import ArtifactFile, ExecutionState
from fedpipe.pipeline.step import Step
from fedpipe.pipeline.workspace import Workspace

Clock = Callable[[], datetime]
Timer = Callable[[], float]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Run:
    workspace: Workspace
    metadata: MetadataStore
    run_id: str
    progress: Progress
    clock: Clock
    timer: Timer
    cache: Cache


@dataclass(frozen=True, kw_only=True)
class _Try:
    """One try of a step: its inputs and when it began."""

    step: Step
    inputs: Mapping[str, Artifact]
    key: Fingerprint
    started_at: datetime
    started: float


def run_pipeline(
    pipeline: Pipeline,
    *,
    workspace: Workspace,
    metadata: MetadataStore,
    run_id: str,
    progress: Progress,
    clock: Clock,
    timer: Timer = time.monotonic,
    reuse: bool = True,
) -> dict[str, BaseModel]:
    """Returns every artifact of the pipeline by name, made now or loaded from an earlier execution.

    A step is loaded if this run, or with `reuse` any run of the workspace, has an execution of it
    with the same fingerprint whose files still have the recorded digests. The caller holds the
    workspace's lock and has made the run with `MetadataStore.create_run`; the runner sets its
    status.

    Args:
        pipeline: the steps.
        workspace: where artifacts and payloads go.
        metadata: where runs, executions and artifacts are recorded.
        run_id: the run to begin or to resume.
        progress: is told when each step begins and ends.
        clock: the time now, with its zone; it may jump.
        timer: seconds that never go back.
        reuse: whether executions of other runs may stand for steps of this one.

    Raises:
        ConfigError: the run is not recorded.
        PipelineError: a step returned something other than it declares.
    """
    cache = Cache(workspace=workspace, metadata=metadata, run_id=run_id, others=reuse)
    run = _Run(
        workspace=workspace,
        metadata=metadata,
        run_id=run_id,
        progress=progress,
        clock=clock,
        timer=timer,
        cache=cache,
    )
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
    started_at, started = run.clock(), run.timer()
    status: ExecutionState = "CACHED"
    try:
        key = fingerprint(step, {name: artifact.content_digest for name, artifact in inputs.items()})
        this = _Try(step=step, inputs=inputs, key=key, started_at=started_at, started=started)
        hit, damaged = run.cache.find(step, key) if step.cacheable else (None, False)
        if hit is None:
            status = "COMPLETE"
            outputs = _execute(run, this, damaged=damaged)
        else:
            outputs = _reuse(run, this, hit)
        _drop_scratch(run, step)
    except BaseException as error:
        run.progress.step_finished(step.name, run.timer() - started, _outcome(error)[0])
        raise
    run.progress.step_finished(step.name, run.timer() - started, status)
    return outputs


def _drop_scratch(run: _Run, step: Step) -> None:
    """Removes what only a try that did not end would go on from, now that the step is on record."""
    for name in step.scratch:
        with suppress(OSError):  # it only takes room
            (run.workspace.step_dir(run.run_id, step.name) / name).unlink()


def _reuse(run: _Run, this: _Try, hit: Hit) -> dict[str, Artifact]:
    """Returns the outputs of an earlier execution; one of another run is brought into this one, on record."""
    if hit.execution.run_id != run.run_id:
        run.cache.adopt(this.step, hit)
        run.metadata.record_cached(
            run.run_id,
            this.step.name,
            fingerprint=this.key,
            started_at=this.started_at,
            duration_seconds=run.timer() - this.started,
            inputs=[artifact.record for artifact in this.inputs.values()],
            outputs=[artifact.record for artifact in hit.outputs.values()],
            original=hit.execution,
        )
    return hit.outputs


def _execute(run: _Run, this: _Try, *, damaged: bool) -> dict[str, Artifact]:
    """Runs the step on record and returns what it made."""
    if damaged:
        _logger.warning("Step %s runs again: files that it had made are missing or changed.", this.step.name)
    execution_id = run.metadata.start_execution(
        run.run_id,
        this.step.name,
        fingerprint=this.key,
        because=run.cache.why(this.step, this.key, damaged=damaged),
        started_at=this.started_at,
        inputs=[artifact.record for artifact in this.inputs.values()],
    )
    try:
        values, files, payloads = _call(run, this.step, this.inputs)
    except BaseException as error:
        state, message = _outcome(error)
        run.metadata.finish_execution(
            execution_id, state=state, duration_seconds=run.timer() - this.started, message=message
        )
        raise
    made = run.metadata.finish_execution(
        execution_id,
        state="COMPLETE",
        duration_seconds=run.timer() - this.started,
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
    for name, kind in step.outputs.items():
        path = artifact_path(directory, name)
        values[name], digest = write_artifact(path, values[name])
        files.append(
            ArtifactFile(name=name, type_name=kind.__name__, uri=run.workspace.uri(path), digest=digest)
        )
    return values, files, digest_payloads(directory, step.outputs, step.scratch)


def _outcome(error: BaseException) -> tuple[Literal["FAILED", "CANCELED"], str]:
    """Returns the state and the message to record: of errors that are not ours, the class only.

    Their text may hold a record or a path of the data; ours never does.
    """
    state: Literal["FAILED", "CANCELED"] = "CANCELED" if isinstance(error, KeyboardInterrupt) else "FAILED"
    return state, str(error) if isinstance(error, FedpipeError) else type(error).__name__
