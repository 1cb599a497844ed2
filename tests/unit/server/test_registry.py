"""Versions: numbered without gaps or reuse, and read from what is recorded."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest

from fedpipe.errors import ConfigError, DataError, WorkspaceError
from fedpipe.pipeline import MetadataStore, Workspace
from fedpipe.pipeline.fingerprint import Fingerprint
from fedpipe.pipeline.records import ArtifactFile
from server.artifacts import ModelVersion
from server.paper_trail import find_model, list_models, list_runs, show_model, show_run
from server.predictions import predict_file
from server.registry import model_versions, next_version, readable_versions

KEY = Fingerprint(parts={})
NOW = datetime(2024, 1, 2, tzinfo=timezone.utc)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def metadata(workspace: Workspace) -> MetadataStore:
    return MetadataStore.open(workspace.metadata_path)


@pytest.fixture
def register(
    workspace: Workspace, metadata: MetadataStore, make_version: Callable[..., ModelVersion]
) -> Callable[..., Path]:
    """Records a version as the run `run-<version>` would, and returns its file."""

    def run(version: int, name: str = "illness") -> Path:
        run_id = f"run-{name}-{version}"
        metadata.create_run(run_id, pipeline="p", config_digest="c", created_at=NOW)
        path = workspace.make_step_dir(run_id, "register") / "model_version.json"
        path.write_text(make_version(name=name, version=version, run_id=run_id).model_dump_json())
        execution = metadata.start_execution(
            run_id, "register", fingerprint=KEY, because="first", started_at=NOW, inputs=[]
        )
        file = ArtifactFile(
            name="model_version", type_name="ModelVersion", uri=workspace.uri(path), digest="d"
        )
        metadata.finish_execution(execution, state="COMPLETE", duration_seconds=1.0, outputs=[file])
        return path

    return run


def test_versions_count_from_one_by_name(
    workspace: Workspace, metadata: MetadataStore, register: Callable[..., Path]
) -> None:
    assert next_version(metadata, workspace, "illness") == 1
    register(1)
    register(2)
    register(7, name="other")
    assert next_version(metadata, workspace, "illness") == 3
    assert [version.version for version in model_versions(metadata, workspace)] == [1, 2, 7]


def test_a_pushed_number_is_never_used_again(workspace: Workspace, metadata: MetadataStore) -> None:
    """Even if its record was lost: TensorFlow Serving may have loaded it."""
    for name in ("3", "10", ".staging-11", "notes"):
        (workspace.models_dir / "illness" / name).mkdir(parents=True)
    assert next_version(metadata, workspace, "illness") == 11


def test_a_version_whose_file_is_gone_or_damaged_is_an_error(
    workspace: Workspace, metadata: MetadataStore, register: Callable[..., Path]
) -> None:
    path = register(1)
    path.write_text("{")
    with pytest.raises(WorkspaceError, match="damaged"):
        model_versions(metadata, workspace)
    path.unlink()
    with pytest.raises(WorkspaceError, match="no file"):
        model_versions(metadata, workspace)


def test_a_version_that_is_gone_does_not_hide_the_others(
    workspace: Workspace, register: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    gone = register(1)
    gone.unlink()
    register(2)
    assert [row["version"] for row in list_models(workspace.root)] == [2]
    assert find_model(workspace.root, "illness").version == 2
    assert str(gone) in caplog.text


def test_a_comparison_leaves_out_what_is_gone(
    workspace: Workspace, metadata: MetadataStore, register: Callable[..., Path]
) -> None:
    register(1).unlink()
    register(7, name="other")
    register(3)
    register(2)
    assert [each.version for each in readable_versions(metadata, workspace, "illness")] == [2, 3]


def test_a_name_means_the_newest_version(workspace: Workspace, register: Callable[..., Path]) -> None:
    register(1)
    register(2)
    assert find_model(workspace.root, "illness").version == 2
    assert find_model(workspace.root, "illness:1").version == 1


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("ilness", "Did you mean illness"),
        ("illness:3", "among 1, found '3'"),
        ("illness:x", "among 1, found 'x'"),
        (":1", "Valid names: illness"),
        ("", "Valid names: illness"),
    ],
)
def test_an_unknown_model_is_answered_with_the_nearest(
    workspace: Workspace, register: Callable[..., Path], reference: str, message: str
) -> None:
    register(1)
    with pytest.raises(ConfigError, match=message):
        find_model(workspace.root, reference)


def test_an_empty_workspace_says_how_to_begin(workspace: Workspace, metadata: MetadataStore) -> None:
    assert list_models(workspace.root) == []
    assert list_runs(workspace.root) == []
    with pytest.raises(ConfigError, match="fedpipe simulate"):
        find_model(workspace.root, "illness")
    with pytest.raises(ConfigError, match="fedpipe simulate"):
        show_run(workspace.root, "last")


def test_lists_state_the_guarantee(workspace: Workspace, register: Callable[..., Path]) -> None:
    register(1)
    [row] = list_models(workspace.root)
    assert (row["model"], row["version"], row["status"], row["delta"]) == ("illness", 1, "private", 1e-5)
    shown = show_model(workspace.root, "illness")
    assert not {"transform", "certificate"} & set(shown)
    assert shown["privacy"]["unit"] == "record"


def test_a_run_shows_its_steps_and_artifacts(workspace: Workspace, register: Callable[..., Path]) -> None:
    register(1)
    shown = show_run(workspace.root, "last")
    assert [step["step"] for step in shown["steps"]] == ["register"]
    assert [artifact["artifact"] for artifact in shown["artifacts"]] == ["model_version"]
    with pytest.raises(ConfigError, match="run-illness-1"):
        show_run(workspace.root, "run-illness-2")


def test_reading_creates_nothing(tmp_path: Path) -> None:
    for look in (list_runs, list_models):
        with pytest.raises(WorkspaceError, match="found nothing"):
            look(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


def test_a_version_that_was_never_deployed_does_not_predict(
    workspace: Workspace, register: Callable[..., Path], tmp_path: Path
) -> None:
    register(1)
    records = tmp_path / "records.csv"
    records.write_text("age,town\n3,ulm\n")
    with pytest.raises(WorkspaceError, match="did not reach deploy"):
        list(predict_file(workspace.root, "illness", records))


@pytest.mark.parametrize("content", ["other\n3\n", "", "age\n1,2\n"])
def test_records_that_do_not_fit_are_refused_before_anything_is_loaded(
    workspace: Workspace, register: Callable[..., Path], tmp_path: Path, content: str
) -> None:
    register(1)
    records = tmp_path / "records.csv"
    records.write_text(content)
    with pytest.raises(DataError, match=r"records\.csv"):
        list(predict_file(workspace.root, "illness", records))
