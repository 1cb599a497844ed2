"""Texts and pictures reach the served model as they reach a client, whatever is in the cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedpipe.data import Transform
from fedpipe.data.transform import Feature, ImageFeature, TextFeature, VectorFeature
from fedpipe.encoding.media import encode_image, split_words
from fedpipe.learning import ModelDefinition, ModelSettings
from fedpipe.learning.serving import export_model
from fedpipe.learning.tensorflow_runtime import tf

TEXT = TextFeature(column="story", num_buckets=64, ngrams=3)
PICTURE = ImageFeature(column="picture", shape=(2, 3, 1))
VECTOR = VectorFeature(column="vector", size=3)
TEXTS = (
    *("", " ", "\t\n", "n/a", " N/A ", "n/a indeed", "!!!", "$", "$$ $", "They charged $40.00, twice!", "a"),
    *(
        "A  b\tC\nd\r\ne\x0bf\x0cg",
        "a\x00b",
        "\x00",
        "\x00a\x00",
        "a\x00\x00 \x00b",
        "3.0",
        " 3.0 ",
        "3.0 3.0",
    ),
    *("🙂", "a🙂b", "👩\u200d🔬 said", "don't", "İstanbul ŞİŞLİ", "STRASSE straße", "\ufeffa", "a\u00a0b"),
    *(
        "a\u2028b",
        "same same same",
        "x" * 10_000,
        "word " * 3000,
        '"quoted, text"',
        "a\\nb",
        "{$120.00}",
        "ﬁ",
    ),
)
PIXELS = np.array([0, 1, 127, 128, 254, 255], np.uint8)
GOOD = encode_image(PIXELS)
PICTURES = (
    *(GOOD, "", " ", "n/a", "A" * 8, "_-_-_-_-", "A" * 7, "A" * 9, GOOD + "=", GOOD + "\n", " " + GOOD),
    *(
        "AAAA+AAA",
        "AAAA/AAA",
        "AAAAAAA=",
        "AAA AAAA",
        "AAAAAAA\x00",
        "ÀÀÀÀ",
        "AAAAAAA🙂",
        "\u0661" * 8,
        "A" * 100_000,
    ),
)


VECTORS = (
    *(
        "1 2 3",
        "",
        "n/a",
        " 1  2\t3\n",
        "1 2",
        "1 2 3 4",
        "1 2 x",
        "1,2,3",
        "nan 1 2",
        "inf 1 2",
        "-1e99 .5 1e9",
    ),
    *("1 2 3\u00a0", "1\u20032 3", "1\x002 3 4", "1 2 3\x00", "9" * 32 + " 1 2", "[1 2 3]", "1 2 3 " * 2000),
)
Served = tuple[Transform, NDArray[np.float32], Any]


def serve(directory: Path, feature: Feature) -> Served:
    """Exports a linear model of fixed weights; returns what it was made of, and the model loaded again."""
    transform = Transform(features=(feature,), missing_tokens=("", "n/a"))
    definition = ModelDefinition.make(ModelSettings.model_validate({}), transform, 3)
    generator = np.random.default_rng(0)
    weights = generator.normal(size=3 * (feature.width + 1)).astype(np.float32)
    names = ("a", "b", "c")
    export_model(directory, transform=transform, definition=definition, weights=weights, class_names=names)
    return transform, weights.reshape(feature.width + 1, 3), tf.saved_model.load(str(directory))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Served]:
    """A loaded model of each feature, with its transform and weights."""
    return {
        feature.column: serve(tmp_path_factory.mktemp("served") / "1", feature)
        for feature in (TEXT, PICTURE, VECTOR)
    }


def both(served: dict[str, Served], column: str, cells: Sequence[str]) -> tuple[NDArray[np.float64], ...]:
    """Returns what the loaded model answers, and what a client computes with numpy alone."""
    transform, weights, loaded = served[column]
    answer = loaded.signatures["serving_default"](**{column: tf.constant(list(cells))[:, tf.newaxis]})
    encoded = transform.encode(pd.DataFrame({column: list(cells)}, dtype=object)).astype(np.float64)
    logits = encoded @ weights[:-1] + weights[-1]
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return answer["probability"].numpy(), odds / odds.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("column", "cells"), [("story", TEXTS), ("picture", PICTURES), ("vector", VECTORS)])
def test_nasty_cells_mean_the_same_in_both(
    served: dict[str, Served], column: str, cells: tuple[str, ...]
) -> None:
    found, expected = both(served, column, cells)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    alone = [both(served, column, [cell])[0][0] for cell in cells]
    np.testing.assert_allclose(found, alone, rtol=1e-5)


@given(
    cells=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), min_size=1, max_size=20)
)
@settings(max_examples=40, deadline=None)
def test_any_text_means_the_same_in_both(served: dict[str, Served], cells: list[str]) -> None:
    found, expected = both(served, "story", cells)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def encode(feature: Feature, cells: Sequence[str]) -> NDArray[np.float32]:
    transform = Transform(features=(feature,), missing_tokens=("", "n/a"))
    return transform.encode(pd.DataFrame({feature.column: list(cells)}, dtype=object))


def test_text_is_the_set_of_its_ngrams_at_unit_length() -> None:
    encoded = encode(TEXT, ["pay me", "PAY,  me! pay me", "me pay", "", "?!", "n/a"])
    np.testing.assert_allclose(np.linalg.norm(encoded, axis=1), [1, 1, 1, 0, 0, 0], rtol=1e-6)
    assert (encoded[0] > 0).sum() == 3  # pay, me, pay me
    assert encoded[0].max() == pytest.approx(3**-0.5)
    assert not np.array_equal(encoded[0], encoded[2])  # order counts


def test_words_are_letters_digits_and_dollars() -> None:
    assert split_words("a $40.00, fee-waiver?") == ["a", "$40", "00", "fee", "waiver"]


def test_vector_is_its_numbers_clipped() -> None:
    encoded = encode(VECTOR, ["1 -2.5 3e0", " 99\t-99 0", "1 2", "1 2 x", ""])
    assert encoded.tolist() == [[1, -2.5, 3], [10, -10, 0], [0] * 3, [0] * 3, [0] * 3]


def test_picture_is_its_bytes_over_255_and_anything_else_is_black() -> None:
    encoded = encode(PICTURE, [GOOD, *PICTURES[6:]])
    np.testing.assert_allclose(encoded[0], PIXELS / 255, rtol=1e-6)
    assert not encoded[1:].any()


@pytest.mark.parametrize("num_bytes", [1, 2, 3, 4, 784])
def test_pictures_of_any_size_come_back(num_bytes: int) -> None:
    pixels = np.arange(num_bytes).astype(np.uint8)
    feature = ImageFeature(column="picture", shape=(1, num_bytes, 1))
    np.testing.assert_allclose(encode(feature, [encode_image(pixels)])[0] * 255, pixels, rtol=1e-5)
