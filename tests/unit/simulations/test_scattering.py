"""Scattering features do what they are for: they keep still when a picture moves or brightens evenly."""

from __future__ import annotations

import numpy as np
import pytest

from simulations.benchmarks.utility import accuracy, plan, train
from simulations.scattering import NUM_CHANNELS, gaussian, normalize_groups, scatter, wavelets


@pytest.fixture
def pictures() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(0).random((3, 28, 28), dtype=np.float32)


def test_shape_is_a_quarter_in_each_direction(
    pictures: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
) -> None:
    assert NUM_CHANNELS == 81
    assert scatter(pictures).shape == (3, 7, 7, 81)


def test_an_even_picture_is_all_local_mean() -> None:
    features = scatter(np.full((1, 28, 28), 0.6, np.float32))
    np.testing.assert_allclose(features[..., 0], 0.6, rtol=1e-5)
    np.testing.assert_allclose(features[..., 1:], 0, atol=1e-5)


def test_local_means_are_samples_of_the_smoothed_picture(
    pictures: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
) -> None:
    padded = np.pad(pictures, ((0, 0), (4, 4), (4, 4)), mode="reflect")
    smooth = np.fft.ifft2(np.fft.fft2(padded) * gaussian(36, 36, 1.6)).real
    np.testing.assert_allclose(scatter(pictures)[..., 0], smooth[:, 4:-4:4, 4:-4:4], atol=1e-5)


def test_wavelets_ignore_brightness_and_prefer_their_own_direction() -> None:
    for scale in (0, 1):
        bank = wavelets(36, 36, scale)
        np.testing.assert_allclose(bank[:, 0, 0], 0, atol=1e-6)
    stripes = np.tile(np.sin(np.arange(28) * 3 * np.pi / 4), (28, 1)).astype(np.float32)
    first_order = scatter(stripes[np.newaxis])[0, 3, 3, 1:73:9]
    assert first_order.argmax() == 0
    assert first_order[4] < 0.1 * first_order[0]


def test_a_picture_is_scattered_alone(pictures: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
    np.testing.assert_allclose(scatter(pictures[1:2]), scatter(pictures)[1:2], atol=1e-6)


def test_groups_are_normalized_record_by_record(
    pictures: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
) -> None:
    normal = normalize_groups(scatter(pictures)).reshape(3, 49, 27, 3)
    np.testing.assert_allclose(normal.mean(axis=(1, 3)), 0, atol=1e-4)
    assert (normal.var(axis=(1, 3)) <= 1 + 1e-4).all()


def test_the_plan_keeps_within_its_epsilon() -> None:
    mechanism = plan(60_000, 3.0)
    assert mechanism.num_rounds == 292
    assert mechanism.noise_multiplier == pytest.approx(3.40, abs=0.02)


def test_the_linear_model_learns_what_noise_leaves() -> None:
    labels = np.random.default_rng(1).integers(10, size=2000).astype(np.int32)
    features = np.eye(10, dtype=np.float32)[labels]
    mechanism = plan(60_000, 3.0).model_copy(update={"noise_multiplier": 1e-3, "num_rounds": 3})
    assert accuracy(train(features, labels, mechanism), features, labels) == 1.0
