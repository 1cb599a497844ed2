"""Public bins, and the sensitivity of the histograms of scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from fedpipe.errors import ConfigError, DataError
from fedpipe.learning.score_histograms import (
    ScoreBins,
    make_score_bins,
    num_histograms,
    score_histograms,
    slice_histogram,
)

Array = NDArray[Any]
Histograms = Mapping[str, NDArray[np.int64]]

ANY_SCORE = st.one_of(
    st.floats(), st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0, math.nan, math.inf, -math.inf])
)


class TestBins:
    @settings(deadline=None)
    @given(st.floats(0, 1), st.integers(4, 60))
    def test_edges_cover_the_unit_interval_with_one_half_among_them(self, rate: float, count: int) -> None:
        edges = make_score_bins(rate, count)
        assert len(edges) == count + 1
        assert (edges[0], edges[-1]) == (0.0, 1.0)
        assert 0.5 in edges
        assert np.all(np.diff(edges) > 0)
        assert np.all(np.isfinite(ScoreBins(edges=edges).logit_edges()))

    def test_bins_are_finest_around_the_base_rate(self) -> None:
        base_logit = math.log(0.02 / 0.98)
        logits = ScoreBins.around(0.02, 40).logit_edges()[1:-1]
        near = np.diff(logits)[np.abs(logits[1:] - base_logit) < 0.5]
        assert near.max() < 0.3
        assert np.diff(logits)[0] > 3 * near.max()
        assert np.diff(logits)[-1] > 3 * near.max()

    @pytest.mark.parametrize("arguments", [(0.5, 3), (math.nan, 20), (math.inf, 20)])
    def test_impossible_settings_are_refused(self, arguments: tuple[float, int]) -> None:
        with pytest.raises(ConfigError, match="Expected"):
            make_score_bins(*arguments)

    @pytest.mark.parametrize(
        "edges", [(0, 0.5, 1), (0, 0.2, 0.2, 0.5, 1), (0, 0.2, 0.4, 0.6, 1), (0.1, 0.2, 0.5, 0.6, 1)]
    )
    def test_foreign_edges_are_refused(self, edges: tuple[float, ...]) -> None:
        with pytest.raises(ValidationError):
            ScoreBins(edges=edges)

    def test_bins_survive_the_wire_exactly(self) -> None:
        bins = ScoreBins.around(0.137, 20)
        assert ScoreBins.model_validate_json(bins.model_dump_json()) == bins


class TestOneCellPerRecord:
    """The sensitivity on which the noise is calibrated."""

    @settings(deadline=None)
    @given(st.lists(st.tuples(ANY_SCORE, st.integers(0, 1)), max_size=20), ANY_SCORE, st.integers(0, 1))
    def test_a_binary_record_adds_one_to_one_cell(
        self, records: list[tuple[float, int]], score: float, label: int
    ) -> None:
        bins = ScoreBins.around(0.3, 8)
        scores, labels = np.array([r[0] for r in records]), np.array([r[1] for r in records], dtype=int)
        before = score_histograms(scores, labels, bins)
        after = score_histograms(np.append(scores, score), np.append(labels, label), bins)
        self.check(before, after, num_histograms(2))

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(ANY_SCORE, ANY_SCORE, ANY_SCORE), min_size=1, max_size=10), st.data())
    def test_a_multiclass_record_adds_one_to_one_cell_of_each(
        self, rows: list[tuple[float, ...]], data: st.DataObject
    ) -> None:
        bins = ScoreBins.around(1 / 3, 8)
        scores = np.array(rows)
        labels = np.array(data.draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows))))
        before = score_histograms(scores[:-1], labels[:-1], bins)
        self.check(before, score_histograms(scores, labels, bins), num_histograms(3))

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.tuples(ANY_SCORE, st.integers(0, 1), st.integers(0, 3)), min_size=1, max_size=15),
        st.booleans(),
    )
    def test_a_record_adds_one_to_one_cell_of_a_slice_histogram(
        self, records: list[tuple[float, int, int]], several: bool
    ) -> None:
        bins = ScoreBins.around(0.3, 8)
        scores, labels, categories = (np.array(column) for column in zip(*records, strict=True))
        if several:
            scores = np.stack([scores, 1 - scores, np.full(len(scores), 0.2)], axis=1)
        parts = [
            slice_histogram(scores[:end], labels[:end], categories[:end], 4, bins)
            for end in (len(records) - 1, len(records))
        ]
        self.check({"slice": parts[0]}, {"slice": parts[1]}, 1)

    @staticmethod
    def check(before: Histograms, after: Histograms, histograms: int) -> None:
        assert len(before) == len(after) == histograms
        for name, counts in after.items():
            change = counts - before[name]
            assert counts.dtype == np.int64
            assert change.sum() == np.abs(change).sum() == 1

    def test_a_score_that_is_not_a_number_is_the_worst_answer(self) -> None:
        bins = ScoreBins.around(0.5, 4)
        counts = score_histograms(np.array([math.nan, math.nan]), np.array([0, 1]), bins)["scores"]
        assert counts.tolist() == [[0, 0, 0, 1], [1, 0, 0, 0]]

    def test_two_columns_are_binary(self) -> None:
        bins, labels = ScoreBins.around(0.5), np.array([0, 1, 1])
        column = np.array([0.2, 0.5, 0.9])
        both = score_histograms(np.stack([1 - column, column], axis=1), labels, bins)
        assert np.array_equal(both["scores"], score_histograms(column, labels, bins)["scores"])

    @pytest.mark.parametrize(
        ("scores", "labels"),
        [
            (np.zeros(2), np.array([0, 2])),
            (np.zeros(2), np.array([0, -1])),
            (np.zeros(2), np.array([0.0, 1.0])),
            (np.zeros(2), np.array([0])),
            (np.zeros((2, 1)), np.array([0, 0])),
        ],
    )
    def test_records_that_do_not_fit_are_refused(self, scores: Array, labels: Array) -> None:
        with pytest.raises(DataError, match="Expected"):
            score_histograms(scores, labels, ScoreBins.around(0.5))

    @pytest.mark.parametrize("categories", [[0, 3], [-1, 0], [0]])
    def test_categories_that_do_not_fit_are_refused(self, categories: list[int]) -> None:
        with pytest.raises(DataError, match=r"\[0, 3\)"):
            slice_histogram(np.zeros(2), np.array([0, 1]), np.array(categories), 3, ScoreBins.around(0.5))


def test_a_slice_of_several_classes_counts_right_answers_by_confidence() -> None:
    scores = np.array([[0.8, 0.1, 0.1], [0.2, 0.2, 0.6]])
    found = slice_histogram(scores, np.array([0, 0]), np.array([1, 0]), 2, ScoreBins.around(0.5, 4))
    assert found.sum(axis=2).tolist() == [[1, 0], [0, 1]]  # [category, wrong or right]
    edges = np.array(ScoreBins.around(0.5, 4).edges)
    assert found[1, 1, np.searchsorted(edges, 0.8) - 1] == 1
