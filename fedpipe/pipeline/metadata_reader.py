"""Reads the paper trail that `metadata.py` keeps. Readers need no lock."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ml_metadata
from ml_metadata import ListOptions, OrderByField, proto

from fedpipe.errors import ConfigError, WorkspaceError, nearest
from fedpipe.pipeline import protos
from fedpipe.pipeline.records import ArtifactRecord, ExecutionRecord, RunRecord

_BY_ID = ListOptions(order_by=OrderByField.ID)


class MetadataReader:
    """Runs, executions and artifacts, as they stand at each call."""

    def __init__(self, store: ml_metadata.MetadataStore) -> None:
        """Use `open_existing`, or `MetadataStore.open` to write as well."""
        self._store = store

    @classmethod
    def open_existing(cls, path: Path) -> MetadataReader:
        """Opens the store at `path`; creates nothing.

        Raises:
            WorkspaceError: the file is missing, or no such store.
        """
        if not path.is_file():
            raise WorkspaceError(
                f"Expected recorded runs in {path}, found none. Start one with fedpipe simulate."
            )
        return cls(connect(path))

    def runs(self) -> list[RunRecord]:
        """Returns all runs, oldest first."""
        contexts = self._store.get_contexts_by_type(protos.RUN_TYPE)
        return [protos.run_record(context) for context in sorted(contexts, key=_id)]

    def run(self, run_id: str) -> RunRecord:
        """Returns one run.

        Raises:
            ConfigError: no run has this id.
        """
        return protos.run_record(self._known_run_context(run_id))

    def executions(self, run_id: str) -> list[ExecutionRecord]:
        """Returns every try of every step of the run, in the order in which they began."""
        context = self._known_run_context(run_id)
        return [
            protos.execution_record(each)
            for each in self._store.get_executions_by_context(context.id, _BY_ID)
        ]

    def executions_of_step(self, step: str, *, fingerprint: str | None = None) -> list[ExecutionRecord]:
        """Returns every try of a step in any run, newest first, or only those with one fingerprint."""
        query = f"type = '{step}'"
        if fingerprint is not None:
            query += f" AND properties.fingerprint.string_value = '{fingerprint}'"
        options = ListOptions(order_by=OrderByField.ID, is_asc=False, filter_query=query)
        return [protos.execution_record(each) for each in self._store.get_executions(options)]

    def artifacts(self, run_id: str) -> list[ArtifactRecord]:
        """Returns the run's artifacts, oldest first, without those that a later try has overwritten."""
        context = self._known_run_context(run_id)
        return _live(self._store.get_artifacts_by_context(context.id, _BY_ID))

    def artifacts_of_type(self, type_name: str) -> list[ArtifactRecord]:
        """Returns the artifacts of one type over all runs, oldest first, without overwritten ones."""
        return _live(self._store.get_artifacts_by_type(type_name))

    def inputs_of(self, execution_id: int) -> list[ArtifactRecord]:
        """Returns the artifacts that an execution took."""
        return self._artifacts_of(execution_id, proto.Event.INPUT)

    def outputs_of(self, execution_id: int) -> list[ArtifactRecord]:
        """Returns the artifacts that an execution made, overwritten or not."""
        return self._artifacts_of(execution_id, proto.Event.OUTPUT)

    def _artifacts_of(self, execution_id: int, kind: int) -> list[ArtifactRecord]:
        events = self._store.get_events_by_execution_ids([execution_id])
        ids = [event.artifact_id for event in events if event.type == kind]
        artifacts = self._store.get_artifacts_by_id(ids) if ids else []
        return [protos.artifact_record(artifact) for artifact in sorted(artifacts, key=_id)]

    def _run_context(self, run_id: str) -> Any | None:
        return self._store.get_context_by_type_and_name(protos.RUN_TYPE, run_id)

    def _known_run_context(self, run_id: str) -> Any:
        context = self._run_context(run_id)
        if context is None:
            known = [run.run_id for run in self.runs()]
            hint = nearest(run_id, known) if known else "Nothing has run yet: start with fedpipe simulate."
            raise ConfigError(f"Expected the id of a recorded run, found {run_id}. {hint}")
        return context


def connect(path: Path) -> ml_metadata.MetadataStore:
    """Returns a connection to the store in `path`.

    Raises:
        WorkspaceError: the file is no such store.
    """
    # READWRITE even for readers: a journal left by a crash must be rolled back before anything is read.
    config = proto.ConnectionConfig()
    config.sqlite.filename_uri = str(path)
    config.sqlite.connection_mode = proto.SqliteMetadataSourceConfig.READWRITE
    try:
        return ml_metadata.MetadataStore(config)
    except RuntimeError as error:
        raise WorkspaceError(
            f"Expected an ML Metadata store in {path}, found a file that it cannot open. If the disk is "
            "full, make room; else restore it from a backup, or choose another workspace with --workspace."
        ) from error


def _live(artifacts: Iterable[Any]) -> list[ArtifactRecord]:
    live = (artifact for artifact in artifacts if artifact.state == proto.Artifact.LIVE)
    return [protos.artifact_record(artifact) for artifact in sorted(live, key=_id)]


def _id(message: Any) -> int:
    return int(message.id)
