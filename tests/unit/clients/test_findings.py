from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clients.findings import Findings, find_out
from clients.node import Node
from fedpipe.data import Schema, open_shard
from fedpipe.federation.terms import RunTerms
from tests.unit.conftest import SCHEMA

SPANS = ("2026-01", "2026-02")


@pytest.fixture
def look(tmp_path: Path) -> Callable[..., Findings]:
    """Returns what is found in lines of a file, for a schema with some settings of its own."""

    def look(*lines: str, **settings: Any) -> Findings:
        path = tmp_path / "records.csv"
        path.write_text("\n".join(["record_id,age,town,ill,seen", *lines]) + "\n")
        time = {"column": "seen", "formats": ["iso"]}
        schema = Schema.model_validate(SCHEMA | {"time": time} | settings)
        return find_out(open_shard(path, schema, eval_fraction=0.5, split_key=b"k" * 32), schema, SPANS)

    return look


def test_records_are_counted_as_a_run_uses_them(look: Callable[..., Findings]) -> None:
    found = look("a,40,ulm,y,2026-01-05", "b,50,ulm,,2026-02-05", "c,60,ulm,n,2025-12-31", "d,60,ulm,n,?")

    assert found == Findings(records=4, undated=1, in_spans=2, labelled=1, doubts=())


def test_dates_that_no_format_reads_are_named_with_the_column_and_the_formats(
    look: Callable[..., Findings],
) -> None:
    (doubt,) = look("a,40,ulm,y,05.01.2026", "b,50,ulm,n,06.01.2026").doubts

    for each in ("'seen'", "(iso)", "2 of 2"):
        assert each in doubt
    assert "05.01" not in doubt


def test_an_export_of_another_time_is_named(look: Callable[..., Findings]) -> None:
    (doubt,) = look("a,40,ulm,y,2019-01-05").doubts
    assert "2026-01 to 2026-02" in doubt


def test_spellings_that_the_label_does_not_know_are_named(look: Callable[..., Findings]) -> None:
    (doubt,) = look("a,40,ulm,ja,2026-01-05", "b,50,trier,nein,2026-01-06").doubts

    assert "in column 'ill'" in doubt
    assert "'no' or 'yes'" in doubt
    assert "nein" not in doubt


@pytest.mark.parametrize(
    ("age", "health"), [('"40,5"', "malformed"), ("400", "out of range"), ("", "missing")]
)
def test_columns_that_mean_something_else_are_named(
    look: Callable[..., Findings], age: str, health: str
) -> None:
    (doubt,) = look(f"a,{age},ulm,y,2026-01-05", f"b,{age},trier,n,2026-01-06").doubts
    assert f"column 'age', found 2 of 2 {health}" in doubt


def test_an_optional_column_may_be_missing(look: Callable[..., Findings]) -> None:
    age = {"type": "numeric", "minimum": 0, "maximum": 100, "optional": True}
    assert look("a,,ulm,y,2026-01-05", columns=SCHEMA["columns"] | {"age": age}).doubts == ()


def test_a_node_tells_its_owner_once_for_each_reading(
    make_node: Callable[..., Node], make_terms: Callable[..., RunTerms], caplog: pytest.LogCaptureFixture
) -> None:
    node = make_node(lines=["r1,forty,ulm,y", "r2,fifty,ulm,n"])

    with caplog.at_level(logging.INFO, "fedpipe.node"):
        node.records(make_terms())
        node.records(make_terms())

    told = [each for each in caplog.records if each.message == "Read the records for a run."]
    assert [(each.__dict__["records"], each.__dict__["labelled"]) for each in told] == [(2, 2)]
    assert "Expected usable cells in column 'age', found 2 of 2 malformed" in caplog.text
    assert "forty" not in caplog.text
