"""What decides a record's block."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from clients.division import Division
from fedpipe.federation.terms import RunTerms


def test_without_a_key_nothing_else_divides_records(make_terms: Callable[..., RunTerms]) -> None:
    keyed = make_terms()
    schema = keyed.data_schema.model_copy(update={"key": None})
    assert Division.of(keyed.model_copy(update={"data_schema": schema})) == Division(key=None)


def test_key_share_and_missing_tokens_divide_records(make_terms: Callable[..., RunTerms]) -> None:
    terms = make_terms()
    expected = Division(
        key=terms.data_schema.key,
        eval_fraction=terms.eval_fraction,
        missing_tokens=terms.data_schema.missing_tokens,
    )
    assert Division.of(terms) == expected


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


def test_what_an_owner_calls_her_key_is_part_of_the_division(make_terms: Callable[..., RunTerms]) -> None:
    terms = make_terms()
    plain, renamed = Division.of(terms), Division.of(terms, names=[("record_id", "nummer"), ("age", "alter")])

    assert renamed.names == (("record_id", "nummer"),)  # a feature divides nothing
    assert renamed.to_json() != plain.to_json()
    assert "names" not in plain.to_json()  # as ledgers of before have it


def test_a_window_of_a_run_is_no_part_of_the_division(make_terms: Callable[..., RunTerms]) -> None:
    schema = make_terms().data_schema.model_dump() | {"time": {"column": "received"}}
    divisions = {
        Division.of(make_terms(data_schema=schema, spans=spans)).model_dump_json()
        for spans in (("2026-01",), ("2026-01", "2026-02"))
    }
    assert len(divisions) == 1
