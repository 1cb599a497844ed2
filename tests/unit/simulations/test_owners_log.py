"""What simulated owners log is for their eyes only."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from fedpipe.errors import FederationError, WorkspaceError
from simulations.owners_log import CLIENTS, owners_log

logger = logging.getLogger(f"{CLIENTS}.app")


def log_and_raise(error: Exception) -> None:
    logger.error("why")
    raise error


def test_it_goes_to_a_closed_file_and_nowhere_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "clients.log"
    with owners_log(path):
        logger.warning("a record")
    assert path.read_text().rstrip().endswith("WARNING a record")
    assert path.stat().st_mode & 0o777 == 0o600
    assert capfd.readouterr() == ("", "")


def test_afterwards_everything_is_as_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "clients.log"
    with owners_log(path):
        pass
    logger.warning("later")
    assert not path.exists()
    assert "later" in caplog.text


def test_a_failed_federation_says_where_to_look_if_there_is_something(tmp_path: Path) -> None:
    path = tmp_path / "clients.log"
    with pytest.raises(FederationError, match=r"^too few$"), owners_log(path):
        raise FederationError("too few")
    with pytest.raises(FederationError, match=r"^too few \(.*clients\.log\)$"), owners_log(path):
        log_and_raise(FederationError("too few"))


def test_an_older_log_is_kept_and_not_pointed_to(tmp_path: Path) -> None:
    path = tmp_path / "clients.log"
    with owners_log(path):
        logger.error("first")
    with pytest.raises(FederationError, match=r"^too few$"), owners_log(path):
        raise FederationError("too few")
    with owners_log(path):
        logger.error("second")
    assert len(path.read_text().splitlines()) == 2


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"^damaged$"), owners_log(tmp_path / "clients.log"):
        log_and_raise(WorkspaceError("damaged"))
