"""The directory of a workspace and its lock."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedpipe.errors import ConfigError, WorkspaceError
from fedpipe.pipeline import Workspace

_HOLD_LOCK = """
import sys
from pathlib import Path
from fedpipe.pipeline import Workspace
with Workspace.open_existing(Path(sys.argv[1])).lock():
    print("locked", flush=True)
    sys.stdin.read()
"""


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def _locked_elsewhere(root: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", _HOLD_LOCK, str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        try:
            yield holder
        finally:
            holder.kill()


def test_new_workspace_is_closed_to_others(tmp_path: Path) -> None:
    root = Workspace(tmp_path / "deep" / "workspace").root
    assert _mode(root) == 0o700
    assert [(path.name, _mode(path)) for path in root.iterdir()] == [("fedpipe-workspace.json", 0o600)]


def test_empty_directory_is_taken_over_and_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    Workspace(tmp_path)
    assert _mode(tmp_path) == 0o700


def test_workspace_opens_again(tmp_path: Path) -> None:
    (Workspace(tmp_path / "w").root / "ledger.sqlite").touch()
    assert Workspace(tmp_path / "w").root == Workspace.open_existing(tmp_path / "w").root == tmp_path / "w"


def test_directory_with_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(
        WorkspaceError, match=r"found other files\. Choose another directory with --workspace"
    ):
        Workspace(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert _mode(tmp_path) == 0o755


def test_marker_that_a_crash_left_half_written_does_not_occupy_the_directory(tmp_path: Path) -> None:
    (tmp_path / ".fedpipe-workspace.json.k2x9").touch()
    assert Workspace(tmp_path).root == tmp_path


def test_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(WorkspaceError, match=r"found a file\. Choose another directory with --workspace"):
        Workspace(path)
    with pytest.raises(WorkspaceError, match="--workspace"):
        Workspace(path / "below")


@pytest.mark.parametrize(
    ("marker", "found"),
    [("{", "damaged"), ("[]", "damaged"), ("{}", "damaged"), ('{"version": 2}', "found 2")],
)
def test_damaged_or_foreign_marker_is_refused(tmp_path: Path, marker: str, found: str) -> None:
    (tmp_path / "fedpipe-workspace.json").write_text(marker)
    with pytest.raises(WorkspaceError, match=found):
        Workspace(tmp_path)


def test_opening_for_reading_creates_nothing(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "missing"):
        with pytest.raises(WorkspaceError, match="Make one with fedpipe simulate"):
            Workspace.open_existing(root)
    assert list(tmp_path.iterdir()) == []


def test_paths_lie_in_the_workspace(workspace: Workspace) -> None:
    root = workspace.root
    assert workspace.metadata_path == root / "metadata.sqlite"
    assert workspace.ledger_path == root / "ledger.sqlite"
    assert workspace.models_dir == root / "models"
    assert workspace.population_dir == root / "population"
    assert workspace.step_dir("run-1", "train") == workspace.runs_dir / "run-1" / "train"
    assert workspace.uri(workspace.runs_dir / "a" / "b.json") == "runs/a/b.json"


def test_directories_of_steps_are_closed_to_others(workspace: Workspace) -> None:
    directory = workspace.make_step_dir("run-1", "train")
    assert {_mode(path) for path in (directory, directory.parent, workspace.runs_dir)} == {0o700}


@pytest.mark.parametrize("run_id", ["", "..", "../run", "a/b", "x" * 101])
def test_run_id_that_is_no_directory_name_is_refused(workspace: Workspace, run_id: str) -> None:
    with pytest.raises(ConfigError, match="run id"):
        workspace.step_dir(run_id, "train")


def test_lock_is_free_again_afterwards(workspace: Workspace) -> None:
    for _ in range(2):
        with workspace.lock():
            assert _mode(workspace.root / "lock") == 0o600


def test_lock_held_by_this_process_names_it(workspace: Workspace) -> None:
    refused = pytest.raises(WorkspaceError, match=f"process {os.getpid()}")
    with workspace.lock(), refused, Workspace(workspace.root).lock():
        pass


def test_lock_held_by_another_process_names_it_and_the_way_out(workspace: Workspace) -> None:
    with (
        _locked_elsewhere(workspace.root) as holder,
        pytest.raises(WorkspaceError, match=rf"process {holder.pid}\..* --workspace"),
        workspace.lock(),
    ):
        pass


def test_lock_of_a_killed_process_is_free(workspace: Workspace) -> None:
    with _locked_elsewhere(workspace.root):
        pass
    with workspace.lock():
        pass


def test_who_holds_the_lock_finds_no_drafts_of_the_dead(workspace: Workspace) -> None:
    draft = workspace.make_step_dir("run-1", "train") / ".checkpoint.npz.abcd123_"
    draft.write_text("half an update")
    with workspace.lock():
        assert not draft.exists()


def test_locked_workspace_opens_for_reading(workspace: Workspace) -> None:
    with workspace.lock():
        assert Workspace.open_existing(workspace.root).root == workspace.root


def test_lock_of_an_unknown_holder_is_refused_too(workspace: Workspace) -> None:
    refused = pytest.raises(WorkspaceError, match="by another process")
    with workspace.lock():
        (workspace.root / "lock").write_text("")
        with refused, workspace.lock():
            pass
