"""`fedpipe doctor` says what is so, with the command that mends it, and leaves nothing behind."""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

from fedpipe import doctor
from fedpipe.cli import app
from fedpipe.doctor import Check, examine, ready
from fedpipe.pipeline import Workspace


def found(name: str, workspace: Path) -> Check:
    [check] = [check for check in examine(workspace, deep=False) if check.name == name]
    return check


def test_a_machine_that_runs_the_tests_is_ready(tmp_path: Path) -> None:
    checks = examine(tmp_path / "none" / "yet", deep=False)
    assert ready(checks), [check for check in checks if check.state == "missing"]
    assert list(tmp_path.iterdir()) == []
    names = [check.name for check in checks]
    assert len(set(names)) == len(names)
    assert {"Python", "tensorflow", "memory", "disk", "durable ledgers", "Docker", "port 8501"} <= set(names)


def test_everything_missing_has_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", ("no-such-package", "numpy"))
    monkeypatch.setattr(doctor, "_requirements", lambda: {"numpy": Requirement("numpy>=99")})
    monkeypatch.setattr(doctor, "MIN_MEMORY_BYTES", 2**60)
    monkeypatch.setattr(doctor, "MIN_DISK_BYTES", 2**60)
    checks = examine(tmp_path, deep=False)
    missing = {check.name: check for check in checks if check.state == "missing"}
    assert {"no-such-package", "numpy", "memory", "disk"} <= set(missing)
    assert all(check.remedy for check in missing.values())
    assert "wanted >=99" in missing["numpy"].found
    assert not ready(checks)


def test_a_workspace_is_looked_into(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    assert found("workspace", workspace.root).state == "ok"
    run = workspace.make_step_dir("run-1", "ingest").parent
    (run / "request.json").write_text("{}")
    interrupted = found("last run", workspace.root)
    assert "run-1" in interrupted.found
    assert "--resume" in interrupted.remedy
    (run / "summary.json").write_text("{}")
    assert not [check for check in examine(workspace.root, deep=False) if check.name == "last run"]


def test_a_damaged_paper_trail_is_missing(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    workspace.metadata_path.write_bytes(b"SQLite format 3\0 and then nothing sensible" * 100)
    assert found("paper trail", workspace.root).state == "missing"


def test_a_ledger_that_is_gone_is_missing_once_a_run_has_claimed(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    sqlite3.connect(workspace.metadata_path).execute("CREATE TABLE Execution (id INTEGER)").connection.close()
    assert "ledger" not in {each.name for each in examine(workspace.root, deep=False)}
    (workspace.make_step_dir("run-1", "ingest").parent / "claim.json").write_text("{}")
    ledger = found("ledger", workspace.root)
    assert (ledger.state, ledger.found) == ("missing", "gone, though runs have spent budgets here")


def test_a_damaged_ledger_is_missing_and_to_be_restored(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    workspace.ledger_path.write_bytes(b"SQLite format 3\0 and then nothing sensible" * 100)
    ledger = found("ledger", workspace.root)
    assert ledger.state == "missing"
    assert "backup" in ledger.remedy


def test_another_folder_is_no_workspace(tmp_path: Path) -> None:
    (tmp_path / "photos.txt").write_text("x")
    assert found("workspace", tmp_path).state == "missing"
    assert (tmp_path / "photos.txt").exists()


def test_a_place_without_a_write_ahead_log_cannot_hold_a_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(place: Path) -> str:
        raise sqlite3.OperationalError("locking protocol")

    monkeypatch.setattr(doctor, "_journal_mode", refuse)
    check = found("durable ledgers", tmp_path)
    assert (check.state, "locking protocol" in check.found) == ("missing", True)


def test_a_port_in_use_is_said_and_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setattr(doctor, "PORTS", {port: ("REST", "--rest-port")})
        check = found(f"port {port}", tmp_path)
    assert (check.state, check.remedy) == ("not needed", "fedpipe serve --rest-port 0")


@pytest.mark.parametrize(("state", "code"), [("missing", 2), ("not needed", 0)])
def test_the_exit_code_says_whether_a_simulation_can_run(
    monkeypatch: pytest.MonkeyPatch, state: doctor.State, code: int
) -> None:
    checks = [Check(name="disk", state=state, found="0.1 GiB free", remedy="free some")]
    monkeypatch.setattr(doctor, "examine", lambda workspace, deep: checks)
    as_text = CliRunner().invoke(app, ["doctor"])
    as_json = CliRunner().invoke(app, ["doctor", "--json"])
    assert (as_text.exit_code, as_json.exit_code) == (code, code)
    assert "-> free some" in as_text.output
    assert "\x1b" not in as_text.output
    assert json.loads(as_json.output)["ready"] is (code == 0)


def test_without_deep_tensorflow_stays_out(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from fedpipe.doctor import examine; "
        "examine(pathlib.Path(sys.argv[1]), deep=False); print('tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
