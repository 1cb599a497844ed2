from pathlib import Path

import pytest

from clients.sources import hold_listing, read_listing
from fedpipe.errors import DataError


def test_a_run_reads_the_files_that_were_there_when_it_began(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.csv").write_text("x\n1\n")
    path = tmp_path / "run-1.sources"
    hold_listing(path, [str(folder)])

    (folder / "b.csv").write_text("x\n2\n")
    hold_listing(path, [str(folder)])
    assert read_listing(path).sources == (folder / "a.csv",)

    later = tmp_path / "run-2.sources"
    hold_listing(later, [str(folder)])
    assert read_listing(later).sources == (folder / "a.csv", folder / "b.csv")


def test_a_file_that_changed_since_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x\n1\n")
    hold_listing(tmp_path / "run.sources", [str(tmp_path / "a.csv")])
    (tmp_path / "a.csv").write_text("x\n1\n2\n")

    with pytest.raises(DataError, match="start a new run"):
        read_listing(tmp_path / "run.sources")


def test_a_file_that_is_gone_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x\n1\n")
    hold_listing(tmp_path / "run.sources", [str(tmp_path / "a.csv")])
    (tmp_path / "a.csv").unlink()

    with pytest.raises(DataError):
        read_listing(tmp_path / "run.sources")


def test_a_query_is_read_anew_by_every_run(tmp_path: Path) -> None:
    for name in ("run-1.sources", "run-2.sources"):
        hold_listing(tmp_path / name, ["sqlite:///a.db#t"])

    first, second = (read_listing(tmp_path / name) for name in ("run-1.sources", "run-2.sources"))
    assert first.sources == second.sources == ("sqlite:///a.db#t",)
    assert first.stamp != second.stamp


def test_without_a_listing_nothing_is_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="begins with ingest"):
        read_listing(tmp_path / "run.sources")


def test_a_folder_without_data_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        hold_listing(tmp_path / "run.sources", [str(tmp_path)])
