"""Files are whole, closed to others, or as they were before."""

from __future__ import annotations

import math
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import pytest

from fedpipe.files import (
    canonical_json,
    clear_drafts,
    digest_json,
    make_private_directory,
    sha256,
    write_atomically,
    write_text,
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_written_whole_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_text(path, "grüße")
    assert path.read_text(encoding="utf-8") == "grüße"
    assert mode(path) == 0o600
    assert mode(path.parent) == mode(path.parent.parent) == 0o700


def test_another_mode_may_be_asked_for(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "public", mode=0o644)
    assert mode(tmp_path / "file") == 0o644


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_what_was_there(tmp_path: Path, failure: BaseException) -> None:
    path = tmp_path / "file"
    write_text(path, "before")

    def fail(stream: IO[bytes]) -> None:
        stream.write(b"half")
        raise failure

    with pytest.raises(type(failure)):
        write_atomically(path, fail)
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_replacing_a_file_closes_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("open")
    path.chmod(0o666)
    write_text(path, "closed")
    assert mode(path) == 0o600


def test_a_private_directory_leaves_those_that_are_there_as_they_are(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    make_private_directory(tmp_path / "a" / "b")
    make_private_directory(tmp_path / "a" / "b")
    assert [mode(path) for path in (tmp_path, tmp_path / "a", tmp_path / "a" / "b")] == [
        0o755,
        0o700,
        0o700,
    ]


def test_canonical_json_is_one_text_for_equal_values() -> None:
    assert canonical_json({"b": [1, 2.0], "a": "ä"}) == '{"a":"ä","b":[1,2.0]}'
    assert digest_json({"a": 1, "b": 2}) == digest_json({"b": 2, "a": 1})
    assert digest_json({"a": 1}) != digest_json({"a": 2})
    assert digest_json("a") == sha256(b'"a"')


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_numbers_that_json_lacks_are_refused(number: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json({"a": number})


def test_drafts_of_a_dead_process_are_removed_and_nothing_else(tmp_path: Path) -> None:
    drafts: list[Path] = []
    write_atomically(tmp_path / "a" / "file", lambda _: drafts.extend((tmp_path / "a").iterdir()))
    drafts[0].write_text("what a killed process would have left")
    (tmp_path / "a" / ".ledger.sqlite.abc123_x").mkdir()
    (tmp_path / "a" / ".gitignore").write_text("")
    clear_drafts(tmp_path)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [".gitignore", "file"]


def test_draft_that_is_being_written_is_nobody_elses(tmp_path: Path) -> None:
    write_atomically(tmp_path / "state.json", lambda stream: (stream.write(b"{}"), clear_drafts(tmp_path)))
    assert (tmp_path / "state.json").read_text() == "{}"


def test_file_is_whole_although_drafts_are_cleared_all_the_time(tmp_path: Path) -> None:
    """A run clears its workspace while a service tells its state there."""
    with ThreadPoolExecutor(1) as pool:
        clearing = threading.Event()

        def clear() -> None:
            while not clearing.is_set():
                clear_drafts(tmp_path)

        done = pool.submit(clear)
        try:
            for number in range(300):
                write_text(tmp_path / "state.json", str(number))
        finally:
            clearing.set()
        done.result()
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]
    assert (tmp_path / "state.json").read_text() == "299"
