"""The first run decides which block a record falls into."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from clients.division import Division, hold_division
from fedpipe.errors import LedgerError
from fedpipe.federation.terms import RunTerms

FIRST = Division(key="record_id", eval_fraction=0.25, missing_tokens=("",))
TIME = {"names": ("received", "date"), "window": "month", "formats": ("iso",)}
DATED = Division.model_validate(FIRST.model_dump() | {"time": TIME})


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


@pytest.mark.parametrize(
    "change",
    [
        None,
        TIME | {"names": ("sent", "date")},
        TIME | {"names": ("date", "received")},
        TIME | {"names": ("received",)},
        TIME | {"window": "year"},
        TIME | {"formats": ("%d/%m/%Y", "iso")},
    ],
    ids=str,
)
def test_records_do_not_move_to_other_spans(tmp_path: Path, change: dict[str, object] | None) -> None:
    """A fresh window, or another column of dates, would be a fresh budget."""
    path = tmp_path / "division.json"
    hold_division(path, DATED)
    with pytest.raises(LedgerError, match="keep the first settings"):
        hold_division(path, Division.model_validate(DATED.model_dump() | {"time": change}))
    hold_division(path, DATED)


def test_a_store_without_time_does_not_get_spans_later(tmp_path: Path) -> None:
    path = tmp_path / "division.json"
    hold_division(path, FIRST)
    with pytest.raises(LedgerError, match="keep the first settings"):
        hold_division(path, DATED)


@pytest.mark.parametrize("key", ["record_id", None])
def test_everything_that_decides_a_span_is_part_of_the_division(
    make_terms: Callable[..., RunTerms], key: str | None
) -> None:
    def division(**changes: object) -> Division:
        time = {"column": "received", "window": "month", "formats": ["iso"], "aliases": ["date"], **changes}
        schema = make_terms().data_schema.model_dump() | {"key": key, "time": time}
        return Division.of(make_terms(data_schema=schema, spans=("2026-01",)))

    first = division()
    assert first.time is not None
    assert first.time.names == ("received", "date")
    assert first.missing_tokens  # a missing token is no date
    others = [
        division(column="sent"),
        division(window="week"),
        division(formats=["%m/%d/%Y"]),
        division(aliases=["sent"]),
    ]
    assert len({other.model_dump_json() for other in (first, *others)}) == 5


def test_the_aliases_of_a_date_that_is_a_feature_count(make_terms: Callable[..., RunTerms]) -> None:
    schema = make_terms().data_schema.model_dump()
    schema["columns"]["year"] = {"type": "numeric", "minimum": 2000, "maximum": 2030, "aliases": ["jahr"]}
    schema["time"] = {"column": "year", "window": "year", "formats": ["%Y"]}
    division = Division.of(make_terms(data_schema=schema, spans=("2026",)))
    assert division.time is not None
    assert division.time.names == ("year", "jahr")


def test_a_window_of_a_run_is_no_part_of_the_division(make_terms: Callable[..., RunTerms]) -> None:
    schema = make_terms().data_schema.model_dump() | {"time": {"column": "received"}}
    divisions = {
        Division.of(make_terms(data_schema=schema, spans=spans)).model_dump_json()
        for spans in (("2026-01",), ("2026-01", "2026-02"))
    }
    assert len(divisions) == 1
