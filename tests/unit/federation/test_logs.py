import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedpipe.federation.logs import log_to


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    """The root logger, which gets back what it had."""
    monkeypatch.setattr(logging, "raiseExceptions", True)
    logger = logging.getLogger()
    handlers, level = list(logger.handlers), logger.level
    yield logger
    logger.handlers, logger.level = handlers, level


def test_every_line_is_an_object_with_what_was_told(tmp_path: Path, root: logging.Logger) -> None:
    path = tmp_path / "log.jsonl"
    log_to(path, echo=False)
    logging.getLogger("fedpipe.node").info("Answering %s.", "train", extra={"round": 3})
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("fedpipe.node").exception("Failed.")

    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert (first["message"], first["round"], first["level"]) == ("Answering train.", 3, "info")
    assert (second["error"], second["level"]) == ("ValueError", "error")


def test_the_log_is_closed_to_others_and_flower_is_quiet(tmp_path: Path, root: logging.Logger) -> None:
    path = tmp_path / "log.jsonl"
    log_to(path, echo=False)
    logging.getLogger("flwr").info("a poll")

    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == ""


def test_a_log_on_a_full_disk_is_no_traceback(
    tmp_path: Path, root: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log.jsonl"
    path.symlink_to("/dev/full")
    log_to(path)
    logging.getLogger("fedpipe.node").info("Answering.")

    told = capfd.readouterr().err
    assert json.loads(told)["message"] == "Answering."
