"""What decides a record's block."""

from __future__ import annotations

from collections.abc import Callable

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
