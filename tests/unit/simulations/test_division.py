"""Records divided part by part are divided as they would be in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedpipe.config import Config
from fedpipe.errors import DataError
from fedpipe.scratch import Scratch
from simulations import division
from simulations.division import Division, divide

MakeConfig = Callable[..., Config]
WriteRecords = Callable[..., Path]


def held(divided: Division) -> dict[str, list[tuple[str, ...]]]:
    """Returns every owner's records, in order."""
    tables = list(divided.tables())
    assert [name for name, _ in tables] == sorted(divided.names)
    return {name: [tuple(row) for row in table.to_frame().to_numpy().tolist()] for name, table in tables}


@pytest.mark.parametrize("bytes_at_once", [0, 9_000, 1 << 28])
@pytest.mark.parametrize(
    "federation",
    [
        {"num_clients": 4},
        {"num_clients": 7, "partition": "dirichlet", "dirichlet_alpha": 0.3},
        {"partition": "column"},
        {"partition": "file"},
    ],
    ids=["iid", "dirichlet", "column", "file"],
)
def test_stored_records_are_divided_like_those_in_memory(
    make_config: MakeConfig,
    write_records: WriteRecords,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    federation: dict[str, Any],
    bytes_at_once: int,
) -> None:
    config = make_config(federation=federation)
    files = [write_records(25, "a.csv"), write_records(35, "b.csv", start=25)]
    expected = held(divide(config, files, seed=3, scratch=Scratch()))
    monkeypatch.setattr(division, "BYTES_AT_ONCE", bytes_at_once)
    stored = divide(config, files, seed=3, scratch=Scratch(directory=tmp_path / "room", memory_bytes=0))
    assert not stored.table.is_in_memory
    assert held(stored) == expected
    assert {name: len(rows) for name, rows in expected.items()} == stored.sizes()
    assert sum(stored.sizes().values()) == 60
    assert list((tmp_path / "room").iterdir()) == []


def test_owners_take_new_names_or_leave(make_config: MakeConfig, write_records: WriteRecords) -> None:
    config = make_config(federation={"partition": "column"})
    divided = divide(config, [write_records(30)], seed=0, scratch=Scratch())
    before = held(divided)
    after = held(divided.renamed({"clinic-2": "b", "clinic-0": "a", "clinic-1": "a"}))
    assert list(after) == ["a", "b"]
    assert after["b"] == before["clinic-2"]
    assert sorted(after["a"]) == sorted(before["clinic-0"] + before["clinic-1"])
    assert held(divided.renamed({"clinic-1": "clinic-1"})) == {"clinic-1": before["clinic-1"]}


def test_a_file_without_the_owner_s_column_is_named(
    make_config: MakeConfig, write_records: WriteRecords, tmp_path: Path
) -> None:
    lacking = tmp_path / "lacking.csv"
    lacking.write_text("record_id,age,town,ill\n1,2,ulm,y\n")
    config = make_config(federation={"partition": "column"})
    with pytest.raises(DataError, match=r"'clinic'.*in lacking\.csv"):
        divide(config, [write_records(), lacking], seed=0, scratch=Scratch())


def test_a_file_without_records_is_an_owner_without_records(
    make_config: MakeConfig, write_records: WriteRecords, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.csv"
    empty.write_text("record_id,age,town,ill,clinic\n")
    config = make_config(federation={"partition": "file"})
    for memory_bytes in (0, 1 << 20):
        room = Scratch(memory_bytes=memory_bytes)
        divided = divide(config, [write_records(4, "full.csv"), empty], seed=0, scratch=room)
        assert divided.sizes() == {"full": 4, "empty": 0}
        assert held(divided)["empty"] == []


def test_a_division_shows_no_record(make_config: MakeConfig, write_records: WriteRecords) -> None:
    divided = divide(make_config(), [write_records()], seed=0, scratch=Scratch())
    assert "ulm" not in repr(divided)
