"""The published transform makes the numbers that clients trained on, of any cell."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpipe.data import Transform
from fedpipe.encoding.media import encode_image
from fedpipe.encrypted.card import Column
from fedpipe.encrypted.rows import encode_rows
from fedpipe.encrypted.transform import PublishedTransform, read_transform
from fedpipe.errors import EncryptedError

DATA = Path(__file__).parents[4] / "shared" / "data"
FEATURES: list[dict[str, Any]] = [
    {"type": "numeric", "column": "age", "lower": -3.5, "upper": 97, "center": 31.25, "scale": 11.7},
    {"type": "vocabulary", "column": "state", "words": ["ca", "new york", "é", "7"]},
    {"type": "hashed", "column": "company", "num_buckets": 16, "buckets": [0, 2, 4, 9]},
    {"type": "vocabulary", "column": "no_words", "words": []},
    {"type": "text", "column": "story", "num_buckets": 32, "ngrams": 3},
    {"type": "vector", "column": "vector", "size": 3},
    {"type": "image", "column": "picture", "shape": [2, 3, 1]},
]
SPECIFICATION: dict[str, Any] = {
    "version": 1,
    "features": FEATURES,
    "missing_tokens": ["", "N/A", "nan", "-9"],
}
PICTURE = encode_image(np.array([0, 51, 102, 153, 204, 255], dtype=np.uint8))
CELLS = (
    "",
    "n/a",
    "NaN",
    "-9.0",
    "61",
    "61.0",
    " 7 ",
    "1e5",
    "9" * 31,
    "9" * 32,
    "CA",
    "New\tYork",
    "É",
    "acme",
)
CELLS += (
    "pay me, pay ME",
    "1 2 3",
    "1 -99 3e0",
    "1 2",
    PICTURE,
    PICTURE[:-1],
    "\x00",
    "a\x00b",
    "🙂",
    "x" * 3000,
)


def both(columns: Mapping[str, Sequence[str]]) -> tuple[Any, Any]:
    transform = Transform.model_validate(SPECIFICATION)
    published = read_transform(json.loads(transform.model_dump_json()))
    return published.encode(columns), transform.encode(pd.DataFrame(columns, dtype=object))


def test_nasty_cells_make_the_same_inputs() -> None:
    found, expected = both({feature["column"]: CELLS for feature in FEATURES})
    assert found.dtype == expected.dtype == np.float32
    assert np.array_equal(found, expected)


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(CELLS), min_size=1
    )
)
@settings(deadline=None, max_examples=60)
def test_any_cells_make_the_same_inputs_within_bounds(cells: list[str]) -> None:
    found, expected = both({feature["column"]: cells for feature in FEATURES})
    assert np.array_equal(found, expected)
    lower, upper = read_transform(SPECIFICATION).rounded_bounds()
    assert (found >= lower).all()
    assert (found <= upper).all()


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not there")
@pytest.mark.parametrize("name", ["complaints/complaints_2013_full_schema.csv", "heart/cleveland.csv"])
def test_real_records_make_the_same_inputs(name: str) -> None:
    table = pd.read_csv(DATA / name, dtype=str, keep_default_na=False).head(500)
    names = {f"c{number}": list(table[each]) for number, each in enumerate(table.columns)}
    kinds = [
        {"type": "numeric", "lower": 0, "upper": 99, "center": 10.5, "scale": 3},
        {"type": "hashed", "num_buckets": 64, "buckets": list(range(50))},
        {"type": "text", "num_buckets": 128, "ngrams": 2},
    ]
    features = [{**kind, "column": each} for each in names for kind in kinds]
    transform = Transform.model_validate({"features": features, "missing_tokens": ["", "na"]})
    published = read_transform(json.loads(transform.model_dump_json()))
    assert np.array_equal(published.encode(names), transform.encode(pd.DataFrame(names, dtype=object)))


def spoil(**changes: Any) -> dict[str, Any]:
    return {**SPECIFICATION, "features": [{**FEATURES[0], **changes}]}


@pytest.mark.parametrize(
    "specification",
    [
        None,
        [],
        {},
        {**SPECIFICATION, "version": 2},
        {**SPECIFICATION, "version": True},
        {**SPECIFICATION, "more": 1},
        {**SPECIFICATION, "features": []},
        {**SPECIFICATION, "features": ["age"]},
        {**SPECIFICATION, "missing_tokens": [1]},
        spoil(type="learned"),
        spoil(column=None),
        spoil(lower=float("nan")),
        spoil(scale=0),
        spoil(lower=98),
        {**SPECIFICATION, "features": [{**FEATURES[4], "num_buckets": 1 << 40}]},
        {**SPECIFICATION, "features": [{**FEATURES[4], "ngrams": 10**9}]},
        {**SPECIFICATION, "features": [{**FEATURES[6], "shape": [1 << 20, 1 << 20, 1]}]},
        {**SPECIFICATION, "features": [{**FEATURES[6], "shape": [2, -3, -1]}]},
        {**SPECIFICATION, "features": [{**FEATURES[2], "num_buckets": 0}]},
    ],
)
def test_specification_that_makes_no_sense_is_refused(specification: object) -> None:
    with pytest.raises(EncryptedError, match="Expected"):
        read_transform(specification)


TRANSFORM = read_transform({**SPECIFICATION, "features": FEATURES[:2]})
COLUMNS = (Column(name="age", aliases=("Age in years",)), Column(name="state", optional=True))


def encode(row: dict[str, object]) -> list[float]:
    encoded: list[float] = encode_rows(TRANSFORM, COLUMNS, [row])[0].tolist()
    return encoded


def test_rows_may_hold_numbers_none_and_other_names() -> None:
    plain = encode({"age": "61", "state": "ca"})
    assert encode({"age": 61, "state": "CA"}) == plain
    assert encode({"Age in Years ": np.float32(61.0), "State?": "Ca", "more": object()}) == plain
    assert encode({"age": None, "state": ""}) == encode({"age": "n/a"})


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), [61], b"61", "\ud800", "inf", "-Infinity", "1e999", 10**400]
)
def test_cell_that_is_no_finite_number_or_text_is_refused(value: object) -> None:
    with pytest.raises(EncryptedError, match="column 'age' of row 1") as refused:
        encode({"age": value})
    assert str(value) not in str(refused.value).replace("infinite", "").replace("info", "")


def test_missing_column_is_named() -> None:
    with pytest.raises(EncryptedError, match="column 'age' in row 1"):
        encode({"state": "ca"})


def test_transform_reads_columns_in_order() -> None:
    published: PublishedTransform = read_transform(SPECIFICATION)
    assert published.columns == tuple(feature["column"] for feature in FEATURES)
    assert published.num_features == 1 + 5 + 5 + 1 + 32 + 3 + 6
