"""From cells to model inputs at a client; the served twin is tested with serving."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from fedpipe.data import Transform
from fedpipe.data.transform import HashedFeature, NumericFeature, VocabularyFeature
from fedpipe.encoding.hashing import hash_bucket
from fedpipe.errors import DataError

FrameBuild = Callable[..., pd.DataFrame]
AGE = NumericFeature(column="age", lower=0, upper=100, center=50, scale=25)
STATE = VocabularyFeature(column="state", words=("ca", "new york"))
ACME = hash_bucket("acme", 8)
COMPANY = HashedFeature(column="company", num_buckets=8, buckets=(ACME,))
TOKENS = ("", "n/a")


def test_encoding_by_hand(make_frame: FrameBuild) -> None:
    transform = Transform(features=(AGE, STATE, COMPANY), missing_tokens=TOKENS)
    frame = make_frame(
        age=["75", " 0 ", "1e9", "-5", "", "old"],
        state=["CA", "new  york", "TX", "", "N/A", "ca\n"],
        company=["ACME", " acme", "", "N/A", "\x00", "Acme"],
        unused=["?"] * 6,
    )
    assert transform.num_features == 6
    assert transform.encode(frame).tolist() == [
        [1, 1, 0, 0, 1, 0],
        [-2, 0, 1, 0, 1, 0],
        [2, 0, 0, 1, 0, 1],
        [-2, 0, 0, 1, 0, 1],
        [0, 0, 0, 1, 0, 1],
        [0, 1, 0, 0, 1, 0],
    ]


@pytest.mark.parametrize("dtype", [str, object])
def test_every_text_dtype_encodes_alike(nasty_cells: tuple[str, ...], dtype: Any) -> None:
    transform = Transform(features=(AGE, STATE, COMPANY), missing_tokens=TOKENS)
    cells = pd.Series(list(nasty_cells), dtype=dtype)
    whole = transform.encode(pd.DataFrame({"age": cells, "state": cells, "company": cells}))
    assert whole.dtype == np.float32
    for row, cell in enumerate(nasty_cells):
        alone = pd.DataFrame({name: pd.Series([cell], dtype=dtype) for name in transform.columns})
        assert transform.encode(alone)[0].tolist() == whole[row].tolist()
    assert np.isfinite(whole).all()
    assert (whole[:, 1:].sum(axis=1) == 2).all()


def test_no_records_keep_their_width(make_frame: FrameBuild) -> None:
    transform = Transform(features=(AGE, STATE), missing_tokens=TOKENS)
    assert transform.encode(make_frame(age=[], state=[])).shape == (0, 4)


def test_feature_without_words_is_constant(make_frame: FrameBuild) -> None:
    transform = Transform(features=(VocabularyFeature(column="state", words=()),), missing_tokens=())
    assert transform.encode(make_frame(state=["CA", ""])).tolist() == [[1], [1]]


def test_many_buckets_cost_no_square_of_memory(make_frame: FrameBuild) -> None:
    buckets = HashedFeature(column="c", num_buckets=50_000, buckets=tuple(range(50_000)))
    transform = Transform(features=(buckets,), missing_tokens=())
    frame = make_frame(c=["x"])
    tracemalloc.start()
    try:
        encoded = transform.encode(frame)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert encoded[0, hash_bucket("x", 50_000)] == 1
    assert peak < 50e6  # a dense identity matrix would take 10 GB


def test_frame_without_a_column_is_refused(make_frame: FrameBuild) -> None:
    with pytest.raises(DataError, match="Expected a column 'state'"):
        Transform(features=(AGE, STATE), missing_tokens=()).encode(make_frame(age=["1"]))


@pytest.mark.parametrize(
    "feature",
    [
        {"type": "numeric", "column": "x", "lower": 1, "upper": 1, "center": 1, "scale": 1},
        {"type": "numeric", "column": "x", "lower": 2, "upper": 1, "center": 1, "scale": 1},
        {"type": "numeric", "column": "x", "lower": 0, "upper": 1, "center": 1, "scale": 0},
        {"type": "numeric", "column": "x", "lower": 0, "upper": float("inf"), "center": 1, "scale": 1},
        {"type": "numeric", "column": "x", "lower": 0, "upper": 1, "center": float("nan"), "scale": 1},
        {"type": "vocabulary", "column": "x", "words": ["a", "a"]},
        {"type": "hashed", "column": "x", "num_buckets": 2, "buckets": [1, 1]},
        {"type": "hashed", "column": "x", "num_buckets": 0, "buckets": []},
    ],
)
def test_transform_that_cannot_serve_is_refused(feature: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Transform.model_validate({"features": [feature], "missing_tokens": []})
