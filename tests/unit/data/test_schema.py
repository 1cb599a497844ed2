"""A schema says at once what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from fedpipe.data import CategoricalColumn, Label, NumericColumn, Schema
from fedpipe.encoding.text import normalize_name, normalize_text

Build = Callable[..., Schema]


def make_label(classes: dict[str, tuple[str, ...]]) -> Label:
    return Label.model_validate({"name": "y", "classes": classes})


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("Consumer disputed?", "consumer_disputed"),
        ("  ZIP code ", "zip_code"),
        ("__X1__", "x1"),
        ("Größe (cm)", "größe_cm"),
        ("?!", ""),
        ("", ""),
    ],
)
def test_names_lose_what_surrounds_them_in_exports(name: str, canonical: str) -> None:
    assert normalize_name(name) == canonical


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Closed \n with\tRelief ", "closed with relief"),
        ("A\x00B", "a b"),
        ("\u00a0x", "\u00a0x"),
        ("ÉTAT I", "État i"),
        ("3.0", "3"),
        ("-9.", "-9"),
        ("3.10", "3.10"),
        ("1.0.0", "1.0.0"),
        ("", ""),
    ],
)
def test_text_is_normalised_by_rules_without_locale(text: str, normal: str) -> None:
    assert normalize_text(text) == normal


def test_normalising_twice_changes_nothing(nasty_cells: tuple[str, ...]) -> None:
    once = [normalize_text(cell) for cell in nasty_cells]
    assert [normalize_text(cell) for cell in once] == once


@pytest.mark.parametrize(
    ("minimum", "maximum"),
    [(1, 1), (2, 1), (float("nan"), 1), (0, float("inf")), (-1e308, 1e308), (1e16, 1e16 + 2), (0, 1e-300)],
)
def test_range_that_cannot_be_divided_is_refused(minimum: float, maximum: float) -> None:
    with pytest.raises(ValidationError):
        NumericColumn.model_validate({"minimum": minimum, "maximum": maximum})


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"vocabulary": ["a"], "hash_buckets": 10},
        {"vocabulary": ["a b", "A  B"]},
        {"hash_buckets": 1},
        {"hash_buckets": 8, "unknown": 1},
        {"hash_buckets": 8, "aliases": ["?"]},
    ],
)
def test_category_needs_one_source_of_distinct_words(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CategoricalColumn.model_validate({"type": "categorical", **fields})


def test_spelling_of_two_classes_is_refused() -> None:
    with pytest.raises(ValidationError, match="one class"):
        make_label({"no": ("0",), "yes": ("0.0",)})


def test_label_of_one_class_is_refused() -> None:
    with pytest.raises(ValidationError):
        make_label({"no": ()})


def test_class_name_is_one_of_its_spellings() -> None:
    label = make_label({"No": ("0",), "Yes": ("1",)})
    assert label.spellings() == [("0", 0), ("1", 1), ("no", 0), ("yes", 1)]
    assert label.names == ("No", "Yes")


@pytest.mark.parametrize("name", ["Age", "a b", "a__b", "_a", "größe", "", "2nd", "class", "self"])
def test_feature_that_the_served_model_cannot_name_is_refused(make_schema: Build, name: str) -> None:
    with pytest.raises(ValidationError, match="expected a"):
        make_schema(columns={name: {"type": "categorical", "hash_buckets": 8}})


@pytest.mark.parametrize("role", ["key", "client_column"])
def test_role_has_a_canonical_name(make_schema: Build, role: str) -> None:
    with pytest.raises(ValidationError, match="such as 'complaint_id'"):
        make_schema(**{role: "Complaint ID"})


@pytest.mark.parametrize("role", ["key", "client_column"])
def test_column_has_one_role(make_schema: Build, role: str) -> None:
    with pytest.raises(ValidationError, match="one role"):
        make_schema(**{role: "age"})
    with pytest.raises(ValidationError, match="different columns"):
        make_schema(**{role: "disputed"})


@pytest.mark.parametrize("alias", ["Disputed", "CLIENT", "record id", "Age"])
def test_alias_that_names_another_column_is_refused(make_schema: Build, alias: str) -> None:
    columns = {
        "age": {"type": "numeric", "minimum": 0, "maximum": 9},
        "state": {"type": "categorical", "hash_buckets": 8, "aliases": [alias]},
    }
    with pytest.raises(ValidationError, match="one column"):
        make_schema(columns=columns, key="record_id", client_column="client")


def test_vocabulary_word_that_means_missing_is_refused(make_schema: Build) -> None:
    columns = {"consent": {"type": "categorical", "vocabulary": ["given", "N/A"]}}
    with pytest.raises(ValidationError, match="'N/A'"):
        make_schema(columns=columns)
    assert make_schema(columns=columns, missing_tokens=["", "null"]).missing_tokens == ("", "null")


def test_required_columns_are_features_label_and_key(make_schema: Build) -> None:
    schema = make_schema(key="record_id", client_column="client")
    assert list(schema.known()) == ["age", "state", "company", "disputed", "record_id"]


def test_schema_survives_json(make_schema: Build) -> None:
    schema = make_schema(key="record_id")
    assert Schema.model_validate_json(schema.model_dump_json()) == schema


def test_a_time_column_is_kept_by_readers_and_is_no_feature(make_schema: Callable[..., Schema]) -> None:
    schema = make_schema(time={"column": "received", "aliases": ["Date received"]})
    assert schema.known()["received"] == ("Date received",)
    assert "received" not in schema.columns


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"time": {"column": "disputed"}}, "different columns"),
        ({"time": {"column": "received"}, "key": "received"}, "different columns"),
        ({"time": {"column": "received", "window": "decade"}}, "window"),
        ({"time": {"column": "received", "formats": ["%d %B %Y"]}}, "numeric directives"),
        ({"time": {"column": "received", "formats": ["%Y"]}}, "tell the month"),
        ({"time": {"column": "received", "formats": []}}, "formats"),
        ({"time": {"column": "received", "aliases": ["age"]}}, "to mean one column"),
        ({"time": {"column": "age", "aliases": ["years"]}}, "with its feature column"),
    ],
    ids=str,
)
def test_a_time_column_that_cannot_be_is_refused(
    make_schema: Callable[..., Schema], changes: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValidationError, match=match):
        make_schema(**changes)


def test_a_feature_may_tell_the_time(make_schema: Callable[..., Schema]) -> None:
    schema = make_schema(time={"column": "age"})
    assert schema.known()["age"] == ()
