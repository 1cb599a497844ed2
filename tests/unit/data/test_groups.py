"""Model inputs in groups: what is a table, what is a text, what is a picture; in full or sparse."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import issparse

from fedpipe.data import Transform
from fedpipe.data.inputs import CHUNK_ROWS, dense_rows, encode_compactly
from fedpipe.data.table import Table
from fedpipe.data.transform import (
    HashedFeature,
    ImageFeature,
    NumericFeature,
    TextFeature,
    VectorFeature,
    VocabularyFeature,
)

AGE = NumericFeature(column="age", lower=0, upper=100, center=50, scale=10)
TOWN = VocabularyFeature(column="town", words=("ulm", "trier"))
FIRM = HashedFeature(column="firm", num_buckets=100, buckets=tuple(range(60)))
STORY = TextFeature(column="story", num_buckets=32, ngrams=2)
REPLY = TextFeature(column="reply", num_buckets=16, ngrams=1)
VECTOR = VectorFeature(column="vector", size=2)
PICTURE = ImageFeature(column="picture", shape=(2, 3, 1))


def test_neighbouring_columns_of_a_table_are_one_group() -> None:
    groups = Transform(features=(AGE, TOWN, STORY, REPLY, PICTURE, AGE, FIRM), missing_tokens=()).groups
    assert [(group.kind, group.shape) for group in groups] == [
        ("tabular", (4,)),
        ("text", (32,)),
        ("text", (16,)),
        ("image", (2, 3, 1)),
        ("tabular", (62,)),
    ]


@pytest.mark.parametrize(
    "features", [(AGE,), (PICTURE,), (STORY, AGE), (AGE, TOWN, STORY, REPLY, PICTURE, AGE, FIRM)]
)
def test_groups_cover_all_model_inputs(features: tuple[NumericFeature, ...]) -> None:
    transform = Transform(features=features, missing_tokens=())
    assert sum(group.width for group in transform.groups) == transform.num_features


@pytest.mark.parametrize("count", [0, 1, 50, CHUNK_ROWS + 3])
def test_sparse_inputs_are_the_full_ones(make_frame: Callable[..., pd.DataFrame], count: int) -> None:
    transform = Transform(features=(AGE, TOWN, FIRM, STORY), missing_tokens=("",))
    numbers = [str(number % 97) for number in range(count)]
    frame = make_frame(
        age=numbers, town=numbers, firm=numbers, story=[f"{number} pay me" for number in numbers]
    )
    inputs = encode_compactly(transform, Table.of(frame))
    assert issparse(inputs)
    assert inputs.shape == (count, transform.num_features)
    np.testing.assert_array_equal(dense_rows(inputs, slice(None)), transform.encode(frame))
    rows = np.arange(count)[::-7]
    np.testing.assert_array_equal(dense_rows(inputs, rows), transform.encode(frame)[rows])


@pytest.mark.parametrize("features", [(AGE, TOWN), (FIRM, PICTURE), (FIRM, VECTOR)])
def test_inputs_that_are_mostly_used_stay_full(
    make_frame: Callable[..., pd.DataFrame], features: tuple[NumericFeature, ...]
) -> None:
    transform = Transform(features=features, missing_tokens=("",))
    frame = make_frame(age=["1"], town=["ulm"], firm=["x"], picture=[""], vector=["1 2"])
    assert isinstance(encode_compactly(transform, Table.of(frame)), np.ndarray)


def test_one_long_text_does_not_cost_every_other_its_length(make_frame: Callable[..., pd.DataFrame]) -> None:
    transform = Transform(features=(STORY,), missing_tokens=("",))
    # As an array of fixed-width texts, this would be 40 GB.
    encoded = transform.encode(make_frame(story=["x" * 2_000_000, *["y"] * 5000]))
    assert (encoded > 0).sum() == 5001
