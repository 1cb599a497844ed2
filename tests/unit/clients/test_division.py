"""The first run decides which block a record falls into."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from clients.division import Division, hold_division
from fedpipe.errors import LedgerError

FIRST = Division(key="record_id", eval_fraction=0.25, missing_tokens=("",))


def test_the_first_division_is_kept_and_allowed_again(tmp_path: Path) -> None:
    path = tmp_path / "division.json"
    for _ in range(3):
        hold_division(path, FIRST)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["division.json"]


@pytest.mark.parametrize(
    "change",
    [{"eval_fraction": 0.5}, {"key": "other"}, {"key": None}, {"missing_tokens": ("", "r7")}],
    ids=str,
)
def test_another_division_is_refused_and_changes_nothing(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "division.json"
    hold_division(path, FIRST)
    with pytest.raises(LedgerError, match=r"0\.25.*keep the first settings"):
        hold_division(path, FIRST.model_copy(update=change))
    hold_division(path, FIRST)


@pytest.mark.parametrize("content", [b"", b"{", b'{"key": 1}', b"\xff"])
def test_a_damaged_record_of_the_division_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "division.json"
    path.write_bytes(content)
    with pytest.raises(LedgerError, match="damaged") as caught:
        hold_division(path, FIRST)
    assert str(tmp_path) not in str(caught.value)
