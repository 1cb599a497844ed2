"""Runs, executions and artifacts as recorded in ML Metadata."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import ml_metadata
import pytest
from ml_metadata import proto

from fedpipe.errors import ConfigError, WorkspaceError
from fedpipe.pipeline import ArtifactFile, ArtifactRecord, MetadataReader, MetadataStore, RunRecord, Workspace
from fedpipe.pipeline.fingerprint import Fingerprint

NOON = datetime(2024, 1, 2, 12, tzinfo=timezone.utc)
KEY = Fingerprint(parts={"code": "c1", "settings.seed": "0"})


def _start(metadata: MetadataStore, step: str, *inputs: ArtifactRecord) -> int:
    return metadata.start_execution(
        "run-1", step, fingerprint=KEY, because="first", started_at=NOON, inputs=inputs
    )


def _file(name: str, digest: str = "d1") -> ArtifactFile:
    return ArtifactFile(name=name, type_name="Model", uri=f"runs/run-1/train/{name}.json", digest=digest)


def _finish(metadata: MetadataStore, execution_id: int, *files: ArtifactFile) -> list[ArtifactRecord]:
    return metadata.finish_execution(execution_id, state="COMPLETE", duration_seconds=2.5, outputs=files)


def test_files_are_readable_by_their_owner_only(workspace: Workspace, metadata: MetadataStore) -> None:
    files = list(workspace.root.glob("metadata.sqlite*"))
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_journal_is_readable_by_its_owner_only(workspace: Workspace, metadata: MetadataStore) -> None:
    # Another process writes: two copies of SQLite in one process would undo each other's locks.
    path = str(workspace.metadata_path)
    code = (
        "import os, sqlite3, stat, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "connection.execute('BEGIN IMMEDIATE')\n"
        "connection.execute('CREATE TABLE other (id INTEGER)')\n"
        "print(oct(stat.S_IMODE(os.stat(sys.argv[1] + '-journal').st_mode)))\n"
        "connection.execute('ROLLBACK')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout == "0o600\n"


def test_file_opened_to_others_is_closed_again(workspace: Workspace, metadata: MetadataStore) -> None:
    workspace.metadata_path.chmod(0o644)
    MetadataStore.open(workspace.metadata_path)
    assert stat.S_IMODE(workspace.metadata_path.stat().st_mode) == 0o600


def test_store_in_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="Create it first"):
        MetadataStore.open(tmp_path / "missing" / "metadata.sqlite")


def test_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "metadata.sqlite"
    path.write_text("no database" * 100)
    with pytest.raises(WorkspaceError, match="--workspace"):
        MetadataStore.open(path)


def test_opening_for_reading_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="fedpipe simulate"):
        MetadataReader.open_existing(tmp_path / "metadata.sqlite")
    assert list(tmp_path.iterdir()) == []


def test_new_run_is_running(metadata: MetadataStore) -> None:
    expected = RunRecord(
        run_id="run-1",
        pipeline="lifecycle",
        status="RUNNING",
        created_at="2024-01-02T03:04:05+00:00",
        config_digest="c0ffee",
        claim_id=None,
        epsilon=None,
        delta=None,
        message="",
        claim_closed=False,
    )
    assert metadata.runs() == [expected]
    assert metadata.run("run-1") == expected


def test_update_changes_only_what_is_given(metadata: MetadataStore) -> None:
    metadata.update_run("run-1", claim_id="claim-7", epsilon=2.123456789012345, delta=1e-9)
    run = metadata.update_run("run-1", status="FAILED", message="its \"message\"; -- is 'quoted' é")
    assert (run.claim_id, run.epsilon, run.delta) == ("claim-7", 2.123456789012345, 1e-9)
    assert (run.status, run.message) == ("FAILED", "its \"message\"; -- is 'quoted' é")
    assert metadata.run("run-1") == run


def test_runs_are_listed_oldest_first_for_another_reader(
    workspace: Workspace, metadata: MetadataStore
) -> None:
    moment = NOON.astimezone(timezone(timedelta(hours=9)))
    metadata.create_run("a", pipeline="lifecycle", config_digest="", created_at=moment, claim_id="claim-1")
    reader = MetadataReader.open_existing(workspace.metadata_path)
    assert [run.run_id for run in reader.runs()] == ["run-1", "a"]
    assert (reader.run("a").created_at, reader.run("a").claim_id) == ("2024-01-02T12:00:00+00:00", "claim-1")


def test_run_id_is_used_once(metadata: MetadataStore) -> None:
    with pytest.raises(ConfigError, match="run-1 recorded already"):
        metadata.create_run("run-1", pipeline="lifecycle", config_digest="", created_at=NOON)


def test_unknown_run_names_the_nearest(metadata: MetadataStore) -> None:
    for look in (metadata.run, metadata.executions, metadata.artifacts, metadata.update_run):
        with pytest.raises(ConfigError, match=r"found run-2\. Did you mean run-1\?"):
            look("run-2")


def test_unknown_run_of_an_empty_store_names_the_way_to_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="start with fedpipe simulate"):
        MetadataStore.open(tmp_path / "metadata.sqlite").run("run-1")


def test_execution_is_recorded_from_start_to_end(metadata: MetadataStore) -> None:
    execution_id = _start(metadata, "train")
    [running] = metadata.executions("run-1")
    assert (running.id, running.run_id, running.step) == (execution_id, "run-1", "train")
    assert (running.state, running.fingerprint, running.duration_seconds) == ("RUNNING", KEY.digest, None)
    assert (running.started_at, running.message, running.payloads) == ("2024-01-02T12:00:00+00:00", "", {})
    metadata.finish_execution(execution_id, state="FAILED", duration_seconds=0.5, message="OSError")
    [failed] = metadata.executions("run-1")
    assert (failed.state, failed.duration_seconds, failed.message) == ("FAILED", 0.5, "OSError")


def test_payload_digests_are_kept(metadata: MetadataStore) -> None:
    metadata.finish_execution(
        _start(metadata, "train"), state="COMPLETE", duration_seconds=1.0, payloads={"weights/0.npy": "abc"}
    )
    assert metadata.executions("run-1")[0].payloads == {"weights/0.npy": "abc"}


def test_artifacts_join_the_executions_that_made_and_took_them(metadata: MetadataStore) -> None:
    train = _start(metadata, "train")
    [model] = _finish(metadata, train, _file("model"))
    assert (model.name, model.type_name, model.digest) == ("model", "Model", "d1")
    assert (model.uri, model.run_id, model.step) == ("runs/run-1/train/model.json", "run-1", "train")
    analyze = _start(metadata, "analyze", model)
    assert metadata.outputs_of(train) == metadata.inputs_of(analyze) == [model]
    assert metadata.inputs_of(train) == metadata.outputs_of(analyze) == []
    assert metadata.artifacts("run-1") == metadata.artifacts_of_type("Model") == [model]
    assert [execution.step for execution in metadata.executions("run-1")] == ["train", "analyze"]


def test_unknown_type_has_no_artifacts(metadata: MetadataStore) -> None:
    assert metadata.artifacts_of_type("Nothing") == []


def test_overwritten_artifact_is_listed_only_by_its_execution(metadata: MetadataStore) -> None:
    first = _start(metadata, "train")
    [old] = _finish(metadata, first, _file("model", "d1"))
    [new] = _finish(metadata, _start(metadata, "train"), _file("model", "d2"))
    assert metadata.artifacts("run-1") == metadata.artifacts_of_type("Model") == [new]
    assert metadata.outputs_of(first) == [old]


def test_executions_leave_the_record_of_the_run_as_it_is(metadata: MetadataStore) -> None:
    before = metadata.update_run("run-1", claim_id="claim-7", epsilon=2.5, message="note")
    _finish(metadata, _start(metadata, "train"), _file("model"))
    assert metadata.run("run-1") == before


def test_abandoned_run_and_its_execution_become_failed(metadata: MetadataStore) -> None:
    done = _start(metadata, "ingest")
    _finish(metadata, done)
    _start(metadata, "train")
    metadata.create_run("run-2", pipeline="lifecycle", config_digest="", created_at=NOON)
    metadata.update_run("run-2", status="COMPLETE")
    assert metadata.fail_abandoned() == ["run-1"]
    assert [run.status for run in metadata.runs()] == ["FAILED", "COMPLETE"]
    assert [execution.state for execution in metadata.executions("run-1")] == ["COMPLETE", "FAILED"]
    assert "ended without" in metadata.run("run-1").message
    assert metadata.fail_abandoned() == []


def test_lineage_is_plain_ml_metadata(workspace: Workspace, metadata: MetadataStore) -> None:
    _finish(metadata, _start(metadata, "train"), _file("model"))
    config = proto.ConnectionConfig()
    config.sqlite.filename_uri = str(workspace.metadata_path)
    store = ml_metadata.MetadataStore(config)
    [run] = store.get_contexts_by_type("run")
    assert [parent.name for parent in store.get_parent_contexts_by_context(run.id)] == ["lifecycle"]
    assert [artifact.type for artifact in store.get_artifacts_by_context(run.id)] == ["Model"]
    [execution] = store.get_executions_by_context(run.id)
    assert execution.type == "train"
    [event] = store.get_events_by_execution_ids([execution.id])
    assert (event.type, event.path.steps[0].key) == (proto.Event.OUTPUT, "model")
    assert json.loads(execution.properties["payloads"].string_value) == {}
