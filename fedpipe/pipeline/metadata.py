"""The paper trail of every run, in ML Metadata over one SQLite file.

    pipeline (context) <- run (context) <- one execution per try of a step
                                        <- artifacts, joined to executions by INPUT and OUTPUT events

Any tool that reads ML Metadata can follow the lineage. The file holds identifiers, digests and
timings, no records and no updates; on privacy the ledger is the authority.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

from ml_metadata import ListOptions, proto

from fedpipe.errors import ConfigError, WorkspaceError
from fedpipe.pipeline import protos
from fedpipe.pipeline.fingerprint import Fingerprint
from fedpipe.pipeline.metadata_reader import MetadataReader, connect
from fedpipe.pipeline.records import (
    ArtifactFile,
    ArtifactRecord,
    ExecutionRecord,
    ExecutionState,
    RunRecord,
    RunStatus,
)

_ABANDONED = "The process ended without recording an outcome."


class MetadataStore(MetadataReader):
    """Records runs, executions and artifacts. Whoever writes holds the workspace's lock."""

    @classmethod
    def open(cls, path: Path) -> MetadataStore:
        """Opens the store at `path` for a run; makes it, readable by its owner only, if it is missing.

        Raises:
            WorkspaceError: the folder is missing, or the file is no such store.
        """
        if not path.parent.is_dir():
            raise WorkspaceError(
                f"Expected the directory {path.parent} for {path.name}, found none. Create it first."
            )
        if not path.exists():
            # SQLite gives the journals beside it the mode of the file.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        elif path.is_file():
            path.chmod(0o600)
        return cls(connect(path))

    def create_run(
        self,
        run_id: str,
        *,
        pipeline: str,
        config_digest: str,
        created_at: datetime,
        claim_id: str | None = None,
    ) -> RunRecord:
        """Records a new run as RUNNING.

        Raises:
            ConfigError: there is a run with this id.
        """
        if self._run_context(run_id) is not None:
            raise ConfigError(f"Expected a new run id, found {run_id} recorded already. Choose another.")
        run = proto.Context(name=run_id, type_id=self._store.put_context_type(protos.run_type(), True, True))
        values = {"pipeline": pipeline, "config_digest": config_digest, "created_at": _iso(created_at)}
        protos.set_values(run.properties, {**values, "status": "RUNNING", "claim_id": claim_id})
        child, parent = self._store.put_contexts([run])[0], self._pipeline_id(pipeline)
        self._store.put_parent_contexts([proto.ParentContext(child_id=child, parent_id=parent)])
        return self.run(run_id)

    def update_run(
        self,
        run_id: str,
        *,
        status: RunStatus | None = None,
        message: str | None = None,
        claim_id: str | None = None,
        claim_closed: bool = False,
        epsilon: float | None = None,
        delta: float | None = None,
    ) -> RunRecord:
        """Changes what is given, leaves the rest, and returns the run as it is then.

        Raises:
            ConfigError: no run has this id.
        """
        context = self._known_run_context(run_id)
        closed = "yes" if claim_closed else None
        values = {"status": status, "message": message, "claim_id": claim_id, "claim_closed": closed}
        protos.set_values(context.properties, values)
        # As text: ML Metadata keeps six decimals of a number, which would make a delta of 1e-7 zero.
        price = {"epsilon": epsilon, "delta": delta}
        texts = {name: None if value is None else repr(value) for name, value in price.items()}
        protos.set_values(context.custom_properties, texts)
        self._store.put_contexts([context])
        return protos.run_record(context)

    def start_execution(
        self,
        run_id: str,
        step: str,
        *,
        fingerprint: Fingerprint,
        because: str,
        started_at: datetime,
        inputs: Iterable[ArtifactRecord],
    ) -> int:
        """Records that a try of `step` has begun with `inputs`, and returns its id."""
        execution = self._new_execution(run_id, step, fingerprint, because, started_at)
        edges = [_taken(artifact) for artifact in inputs]
        contexts = [self._known_run_context(run_id)]
        return int(self._store.put_lineage_subgraph([execution], [], contexts, edges)[0][0])

    def record_cached(
        self,
        run_id: str,
        step: str,
        *,
        fingerprint: Fingerprint,
        started_at: datetime,
        duration_seconds: float,
        inputs: Iterable[ArtifactRecord],
        outputs: Sequence[ArtifactRecord],
        original: ExecutionRecord,
    ) -> None:
        """Records that `outputs` of `original`, an execution of another run, stand for a step of this one."""
        taken_over = original.state == "CACHED"
        because = original.because if taken_over else f"cached from run {original.run_id}"
        execution = self._new_execution(run_id, step, fingerprint, because, started_at)
        execution.last_known_state = proto.Execution.CACHED
        protos.set_values(execution.properties, {"payloads": protos.mapping_text(original.payloads)})
        protos.set_values(execution.properties, {"duration_seconds": duration_seconds})
        found = {each.id: each for each in self._store.get_artifacts_by_id([each.id for each in outputs])}
        made = [found[each.id] for each in outputs]
        edges = [
            *(_taken(artifact) for artifact in inputs),
            *((0, index, protos.event(proto.Event.OUTPUT, each.name)) for index, each in enumerate(outputs)),
        ]
        self._store.put_lineage_subgraph([execution], made, [self._known_run_context(run_id)], edges)

    def _new_execution(
        self, run_id: str, step: str, fingerprint: Fingerprint, because: str, started_at: datetime
    ) -> proto.Execution:
        type_id = self._store.put_execution_type(protos.execution_type(step), True, True)
        execution = proto.Execution(type_id=type_id, last_known_state=proto.Execution.RUNNING)
        values = {
            "run_id": run_id,
            "fingerprint": fingerprint.digest,
            "parts": protos.mapping_text(fingerprint.parts),
            "because": because,
            "started_at": _iso(started_at),
        }
        protos.set_values(execution.properties, values)
        return execution

    def finish_execution(
        self,
        execution_id: int,
        *,
        state: ExecutionState,
        duration_seconds: float,
        message: str = "",
        outputs: Sequence[ArtifactFile] = (),
        payloads: Mapping[str, str] | None = None,
    ) -> list[ArtifactRecord]:
        """Records how a try ended and what it made, in place of older files at that path; all or nothing."""
        [execution] = self._store.get_executions_by_id([execution_id])
        execution.last_known_state = proto.Execution.State.Value(state)
        values = {"message": message, "payloads": protos.mapping_text(payloads or {})}
        protos.set_values(execution.properties, {**values, "duration_seconds": duration_seconds})
        run_id = execution.properties["run_id"].string_value
        made = [self._artifact(file, run_id=run_id, step=execution.type) for file in outputs]
        edges = [
            (0, index, protos.event(proto.Event.OUTPUT, file.name)) for index, file in enumerate(outputs)
        ]
        contexts = [self._known_run_context(run_id)]
        self._store.put_lineage_subgraph([execution], [*made, *self._overwritten(outputs)], contexts, edges)
        return self.outputs_of(execution_id)

    def fail_abandoned(self) -> list[str]:
        """Marks whatever is still RUNNING as FAILED, and returns the ids of these runs.

        The caller holds the workspace's lock, so the processes that left them are dead.
        """
        for execution in self._store.get_executions(ListOptions(filter_query="last_known_state = RUNNING")):
            execution.last_known_state = proto.Execution.FAILED
            protos.set_values(execution.properties, {"message": _ABANDONED})
            self._store.put_executions([execution])
        abandoned = [run.run_id for run in self.runs() if run.status == "RUNNING"]
        for run_id in abandoned:
            self.update_run(run_id, status="FAILED", message=_ABANDONED)
        return abandoned

    def _artifact(self, file: ArtifactFile, *, run_id: str, step: str) -> proto.Artifact:
        type_id = self._store.put_artifact_type(protos.artifact_type(file.type_name), True, True)
        return protos.new_artifact(file, type_id=type_id, run_id=run_id, step=step)

    def _overwritten(self, outputs: Sequence[ArtifactFile]) -> list[proto.Artifact]:
        """Returns the live artifacts whose files `outputs` replaced, marked as deleted."""
        found = [artifact for file in outputs for artifact in self._store.get_artifacts_by_uri(file.uri)]
        live = [artifact for artifact in found if artifact.state == proto.Artifact.LIVE]
        for artifact in live:
            artifact.state = proto.Artifact.DELETED
        return live

    def _pipeline_id(self, name: str) -> int:
        type_id = self._store.put_context_type(protos.pipeline_type(), True, True)
        found = self._store.get_context_by_type_and_name(protos.PIPELINE_TYPE, name)
        return int(
            found.id if found else self._store.put_contexts([proto.Context(name=name, type_id=type_id)])[0]
        )


def _taken(artifact: ArtifactRecord) -> tuple[int, None, proto.Event]:
    return 0, None, protos.event(proto.Event.INPUT, artifact.name, artifact_id=artifact.id)


def _iso(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).isoformat(timespec="seconds")
