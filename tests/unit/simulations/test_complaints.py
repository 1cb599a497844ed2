"""The synthetic complaints: as hard as the real ones, and no phrase gives the label away."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from fedpipe.config import load_config
from fedpipe.data.inputs import encode_compactly
from fedpipe.data.profile import feature_counts, fit_transform
from fedpipe.data.readers import select_columns
from fedpipe.data.table import Table
from fedpipe.encoding.media import split_words
from fedpipe.encoding.text import normalize_text
from simulations.complaints import NUM_COMPLAINTS, synthetic_complaints


@pytest.fixture(scope="module")
def complaints() -> pd.DataFrame:
    return synthetic_complaints()


def disputed(frame: pd.DataFrame) -> np.ndarray:
    return (frame["consumer_disputed"] == "Yes").to_numpy()


def test_the_same_seed_tells_the_same_story_and_another_seed_another(complaints: pd.DataFrame) -> None:
    few = synthetic_complaints(500, seed=3)
    pd.testing.assert_frame_equal(few, synthetic_complaints(500, seed=3))
    assert not few["company"].equals(synthetic_complaints(500, seed=4)["company"])
    assert len(complaints) == NUM_COMPLAINTS == 30_000
    assert complaints["complaint_id"].is_unique


def test_twenty_companies_of_unequal_size(complaints: pd.DataFrame) -> None:
    sizes = complaints["company"].value_counts()
    assert len(sizes) == 20
    assert sizes.min() >= 300
    assert sizes.max() > 5 * sizes.min()


def test_two_years_with_a_drift(complaints: pd.DataFrame) -> None:
    days = pd.to_datetime(complaints["date_received"])
    assert days.is_monotonic_increasing
    assert 720 <= (days.max() - days.min()).days <= 730
    sent = pd.to_datetime(complaints["date_sent_to_company"])
    assert (sent >= days).all()
    first, last = complaints.iloc[:10_000], complaints.iloc[-10_000:]
    assert (first["product"] == "Mortgage").mean() > (last["product"] == "Mortgage").mean() + 0.05
    assert disputed(first).mean() > disputed(last).mean() + 0.01


def test_a_fifth_or_so_is_disputed_more_at_some_companies(complaints: pd.DataFrame) -> None:
    assert 0.15 <= disputed(complaints).mean() <= 0.30
    rates = pd.Series(disputed(complaints)).groupby(complaints["company"]).mean()
    assert rates.max() - rates.min() > 0.08


def test_no_phrase_gives_the_label_away(complaints: pd.DataFrame) -> None:
    seen: Counter[str] = Counter()
    disputes: Counter[str] = Counter()
    for text, label in zip(complaints["consumer_complaint_narrative"], disputed(complaints), strict=True):
        words = split_words(normalize_text(text))
        grams = {" ".join(words[start : start + size]) for size in (1, 2, 3) for start in range(len(words))}
        seen.update(grams)
        disputes.update(grams if label else ())
    rates = {gram: disputes[gram] / count for gram, count in seen.items() if gram and count > 300}
    assert len(rates) > 200
    assert max(rates.values()) < 0.6
    assert min(rates.values()) > 0.02


def test_a_pooled_model_is_neither_blind_nor_perfect(complaints: pd.DataFrame) -> None:
    config = load_config("complaints")
    schema = config.data_schema
    frame = select_columns(complaints, schema, "complaints")
    counts = feature_counts(Table.of(frame), schema, config.preprocess)
    transform = fit_transform(counts, schema, config.preprocess, noise_stddev=0, num_records=len(frame))
    inputs, labels = encode_compactly(transform, Table.of(frame)), disputed(frame)
    held_out = np.random.default_rng(0).random(len(frame)) < 0.25
    model = LogisticRegression(C=0.1, max_iter=300).fit(inputs[~held_out], labels[~held_out])
    auc = roc_auc_score(labels[held_out], model.decision_function(inputs[held_out]))
    assert 0.65 <= auc <= 0.75
    # Part of it is in the narratives.
    table = inputs[:, : -schema.columns["consumer_complaint_narrative"].hash_buckets]
    model = LogisticRegression(C=0.1, max_iter=300).fit(table[~held_out], labels[~held_out])
    assert roc_auc_score(labels[held_out], model.decision_function(table[held_out])) < auc - 0.02
