"""Counts for preprocessing, and what noisy sums of them support."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from fedpipe.data import NumericColumn, PreprocessSettings, Schema, Transform
from fedpipe.data.profile import feature_counts, fit_transform, profiled_columns
from fedpipe.data.table import Table
from fedpipe.data.transform import HashedFeature, NumericFeature, VocabularyFeature
from fedpipe.encoding.hashing import hash_bucket
from fedpipe.errors import DataError

Build = Callable[..., Schema]
FrameBuild = Callable[..., pd.DataFrame]


def choose(**fields: float) -> PreprocessSettings:
    return PreprocessSettings.model_validate(fields)


SETTINGS = choose(num_bins=4)
FINE = choose(num_bins=64)


def numeric_schema(minimum: float = 0, maximum: float = 100, normalize: str = "standardize") -> Schema:
    column = NumericColumn.model_validate({"minimum": minimum, "maximum": maximum, "normalize": normalize})
    return Schema.model_validate(
        {"label": {"name": "y", "classes": {"n": [], "p": []}}, "columns": {"x": column}}
    )


def fit_numbers(
    numbers: NDArray[np.float64],
    schema: Schema,
    settings: PreprocessSettings = FINE,
    *,
    noise_stddev: float = 0.0,
    seed: int = 0,
) -> NumericFeature:
    frame = pd.DataFrame({"x": [repr(float(number)) for number in numbers]}, dtype=str)
    (counts,) = feature_counts(Table.of(frame), schema, settings)
    noise = np.rint(noise_stddev * np.random.default_rng(seed).normal(size=counts.shape)).astype(np.int64)
    return fitted(
        fit_transform([counts + noise], schema, settings, noise_stddev=noise_stddev, num_records=len(numbers))
    )


def fitted(transform: Transform) -> NumericFeature:
    (feature,) = transform.features
    assert isinstance(feature, NumericFeature)
    return feature


def test_counts_by_hand(make_schema: Build, make_frame: FrameBuild) -> None:
    frame = make_frame(
        age=["0", "24.9", "25", "100", "1e9", "-500", "", "old", "N/A"],
        state=["ca", "CA ", "new york", "TX", "", "null", "x", "y", "z"],
        company=["Acme", "ACME", " acme ", "", "nan", "b", "b", "b", "b"],
    )
    age, state, company = feature_counts(Table.of(frame), make_schema(), SETTINGS)
    assert age.tolist() == [3, 1, 0, 2, 3]
    assert state.tolist() == [2, 1, 6]
    expected = np.zeros(9, np.int64)
    expected[hash_bucket("acme", 8)] += 3
    expected[hash_bucket("b", 8)] += 4
    expected[8] = 2
    assert company.tolist() == expected.tolist()


def test_column_normalised_by_its_range_is_not_counted(make_schema: Build) -> None:
    schema = numeric_schema(normalize="range")
    assert profiled_columns(schema) == {}
    assert feature_counts(Table.of(pd.DataFrame({"x": ["1"]})), schema, SETTINGS) == []
    assert list(profiled_columns(make_schema())) == ["age", "state", "company"]


def test_no_records_count_nothing(make_schema: Build, make_frame: FrameBuild) -> None:
    counts = feature_counts(Table.of(make_frame(age=[], state=[], company=[])), make_schema(), SETTINGS)
    assert [count.tolist() for count in counts] == [[0] * 5, [0] * 3, [0] * 9]


def test_nasty_records_fall_into_one_cell_each(
    make_schema: Build, make_frame: FrameBuild, nasty_cells: tuple[str, ...]
) -> None:
    for cell in nasty_cells:
        counts = feature_counts(
            Table.of(make_frame(age=[cell], state=[cell], company=[cell])), make_schema(), SETTINGS
        )
        assert [(count.sum(), count.min(), len(count)) for count in counts] == [
            (1, 0, 5),
            (1, 0, 3),
            (1, 0, 9),
        ]


def test_any_records_fall_into_one_cell_each(make_schema: Build, make_frame: FrameBuild) -> None:
    schema = make_schema()

    @given(st.lists(st.text(), max_size=10))
    def check(cells: list[str]) -> None:
        counts = feature_counts(Table.of(make_frame(age=cells, state=cells, company=cells)), schema, SETTINGS)
        assert [count.sum() for count in counts] == [len(cells)] * 3

    check()


def test_adding_a_record_adds_one_to_one_cell_of_each_histogram(
    make_schema: Build, make_frame: FrameBuild, nasty_cells: tuple[str, ...]
) -> None:
    whole = make_frame(age=nasty_cells, state=nasty_cells, company=nasty_cells)
    for row in range(0, len(nasty_cells), 7):
        less = whole.drop(index=row).reset_index(drop=True)
        pairs = zip(
            feature_counts(Table.of(whole), make_schema(), SETTINGS),
            feature_counts(Table.of(less), make_schema(), SETTINGS),
            strict=True,
        )
        for counts, others in pairs:
            assert sorted((counts - others).tolist())[-2:] == [0, 1]


def test_without_noise_mean_and_deviation_are_recovered() -> None:
    numbers = np.clip(np.random.default_rng(0).normal(40, 10, 20_000), 0, 100)
    feature = fit_numbers(numbers, numeric_schema())
    assert feature.center == pytest.approx(numbers.mean(), abs=0.3)
    assert feature.scale == pytest.approx(numbers.std(), rel=0.02)
    assert feature.lower == pytest.approx(feature.center - 4 * feature.scale)
    assert feature.upper == pytest.approx(feature.center + 4 * feature.scale)


def test_coarse_bins_do_not_widen_the_deviation() -> None:
    numbers = np.clip(np.random.default_rng(0).normal(50, 10, 20_000), 0, 100)
    feature = fit_numbers(numbers, numeric_schema(), choose(num_bins=16))
    assert feature.scale == pytest.approx(numbers.std(), rel=0.005)


def test_records_without_a_number_do_not_move_the_mean() -> None:
    schema = numeric_schema()
    frame = pd.DataFrame({"x": ["60"] * 50 + [""] * 50}, dtype=str)
    counts = feature_counts(Table.of(frame), schema, FINE)
    feature = fitted(fit_transform(counts, schema, FINE, noise_stddev=0, num_records=100))
    assert feature.center == pytest.approx(60, abs=100 / 64)


def test_under_heavy_noise_the_declared_range_decides() -> None:
    numbers = np.full(100, 90.0)
    feature = fit_numbers(numbers, numeric_schema(), noise_stddev=1e7)
    assert feature.center == pytest.approx(50, abs=1)
    assert feature.scale == pytest.approx(100 / np.sqrt(12), rel=0.02)
    assert (feature.lower, feature.upper) == (0, 100)


def test_more_noise_pulls_towards_the_declared_middle() -> None:
    schema = numeric_schema()
    (counts,) = feature_counts(Table.of(pd.DataFrame({"x": ["90"] * 1000}, dtype=str)), schema, FINE)
    centers = [
        fitted(fit_transform([counts], schema, FINE, noise_stddev=stddev, num_records=1000)).center
        for stddev in (0, 10, 100, 1000, 10_000)
    ]
    assert centers == sorted(centers, reverse=True)
    assert centers[0] > 89
    assert centers[-1] < 55


def test_constant_column_keeps_a_positive_scale() -> None:
    feature = fit_numbers(np.full(500, 30.0), numeric_schema())
    assert feature.scale == pytest.approx(100 / 40)
    assert feature.lower < 30 < feature.upper


def test_range_normalisation_maps_bounds_to_one() -> None:
    feature = fitted(fit_transform([], numeric_schema(-2, 4, "range"), FINE, noise_stddev=0, num_records=1))
    assert (feature.lower, feature.upper, feature.center, feature.scale) == (-2, 4, 1, 3)


@given(
    counts=st.lists(st.integers(-(10**12), 10**12), min_size=5, max_size=5),
    noise_stddev=st.one_of(st.just(0.0), st.floats(1e-3, 1e12)),
    num_records=st.floats(-1e9, 1e9),
    minimum=st.one_of(st.sampled_from([0.0, -1e50, 1e-3, 1e49]), st.floats(-1e6, 1e6)),
    width=st.one_of(st.sampled_from([1e-50, 1.0, 1e50]), st.floats(1e-3, 1e6)),
    clip_deviations=st.floats(0.1, 100),
)
def test_any_noise_gives_a_range_that_divides(
    counts: list[int],
    noise_stddev: float,
    num_records: float,
    minimum: float,
    width: float,
    clip_deviations: float,
) -> None:
    try:
        schema = numeric_schema(minimum, minimum + width)
    except ValidationError:
        return  # a range too narrow for its magnitude is refused
    settings = choose(num_bins=4, clip_deviations=clip_deviations)
    feature = fitted(
        fit_transform(
            [np.array(counts)], schema, settings, noise_stddev=noise_stddev, num_records=num_records
        )
    )
    assert feature.scale > 0
    assert minimum <= feature.lower < feature.upper <= minimum + width
    assert feature.lower <= feature.center <= feature.upper
    with np.errstate(all="raise", under="ignore"):
        ends = (np.array([feature.lower, feature.upper]) - feature.center) / feature.scale
    assert np.abs(ends).max() <= 41


def test_rare_words_and_buckets_are_merged(make_schema: Build) -> None:
    settings = choose(num_bins=4, min_count=10)
    counts = [np.zeros(5, np.int64), np.array([10, 9, 500]), np.array([0, 10, 9, -3, 11, 0, 0, 0, 99])]
    transform = fit_transform(counts, make_schema(), settings, noise_stddev=0, num_records=100)
    assert transform.features[1:] == (
        VocabularyFeature(column="state", words=("ca",)),
        HashedFeature(column="company", num_buckets=8, buckets=(1, 4)),
    )
    assert transform.num_features == 1 + 2 + 3


def test_only_what_is_surely_rare_is_merged(make_schema: Build) -> None:
    threshold = int(SETTINGS.min_count) - 200
    states = np.array([threshold - 1, threshold, 0])
    counts = [np.zeros(5, np.int64), states, np.full(9, threshold - 1)]
    transform = fit_transform(counts, make_schema(), SETTINGS, noise_stddev=100, num_records=1000)
    assert transform.features[1:] == (
        VocabularyFeature(column="state", words=("new york",)),
        HashedFeature(column="company", num_buckets=8, buckets=()),
    )


@pytest.mark.parametrize("sizes", [(), (5, 3), (5, 3, 8), (3, 5, 9), (5, 3, 9, 1)])
def test_counts_of_another_schema_are_refused(make_schema: Build, sizes: tuple[int, ...]) -> None:
    counts = [np.zeros(size, np.int64) for size in sizes]
    with pytest.raises(DataError, match="Expected counts of shapes"):
        fit_transform(counts, make_schema(), SETTINGS, noise_stddev=0, num_records=10)


def test_transform_survives_json(make_schema: Build) -> None:
    counts = [np.ones(5, np.int64), np.ones(3, np.int64), np.ones(9, np.int64)]
    transform = fit_transform(counts, make_schema(), SETTINGS, noise_stddev=0.5, num_records=10)
    assert Transform.model_validate_json(transform.model_dump_json()) == transform
