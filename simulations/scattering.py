"""Scattering features of small grey pictures: fixed wavelets, moduli and local means; nothing is learned.

Bruna and Mallat 2013 (arXiv:1203.1513); their use before DP-SGD is Tramer and Boneh 2021 (arXiv:2011.11660).
Order 2, scales 1 and 2, eight angles: 81 channels of a quarter of the picture's height and width. They are
functions of one picture each, so they cost no privacy.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.fft
from numpy.typing import NDArray

SCALES, ANGLES = 2, 8
NUM_CHANNELS = 1 + SCALES * ANGLES + ANGLES * ANGLES
STRIDE = 1 << SCALES
MARGIN = 1 << SCALES  # pixels of mirrored surroundings on each side
CHUNK = 256  # pictures at a time: bounds memory

Filters = NDArray[np.float32]


def scatter(pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns features (n, height / 4, width / 4, 81) of pictures (n, height, width).

    Height and width are multiples of 4.
    """
    margins = ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN))
    height, width = pictures.shape[1] + 2 * MARGIN, pictures.shape[2] + 2 * MARGIN
    lowpass = gaussian(height, width, 0.8 * 2 ** (SCALES - 1))
    fine, coarse = wavelets(height, width, 0), wavelets(height, width, 1)
    parts = []
    for start in range(0, len(pictures), CHUNK):
        padded = np.pad(pictures[start : start + CHUNK], margins, mode="reflect")
        parts.append(_scatter(_forward(padded), lowpass, fine, coarse))
    edge = MARGIN // STRIDE
    return np.concatenate(parts)[:, edge:-edge, edge:-edge]


def _scatter(spectrum: NDArray[np.complex64], lowpass: Filters, fine: Filters, coarse: Filters) -> Filters:
    channels = [_local_mean(spectrum, lowpass)]
    for wavelet in fine:
        response = _forward(_modulus(spectrum, wavelet))
        channels.append(_local_mean(response, lowpass))
        channels += [_local_mean(_forward(_modulus(response, other)), lowpass) for other in coarse]
    channels += [_local_mean(_forward(_modulus(spectrum, wavelet)), lowpass) for wavelet in coarse]
    return np.stack(channels, axis=-1)


def _forward(values: Filters) -> NDArray[np.complex64]:
    return np.asarray(scipy.fft.fft2(values.astype(np.float32, copy=False), workers=2), np.complex64)


def _modulus(spectrum: NDArray[np.complex64], response: Filters) -> Filters:
    return np.asarray(np.abs(scipy.fft.ifft2(spectrum * response, workers=2)), np.float32)


def _local_mean(spectrum: NDArray[np.complex64], lowpass: Filters) -> Filters:
    # Every fourth sample of the smoothed picture is the inverse transform of the folded spectrum.
    smooth = spectrum * lowpass
    count, height, width = smooth.shape
    shape = (count, STRIDE, height // STRIDE, STRIDE, width // STRIDE)
    return np.asarray(scipy.fft.ifft2(smooth.reshape(shape).mean(axis=(1, 3))).real, np.float32)


def gaussian(height: int, width: int, spread: float) -> Filters:
    """Returns the frequency response of a Gaussian window of `spread` pixels; its sum in space is 1."""
    vertical, horizontal = _frequencies(height, width)
    response: NDArray[np.float64] = np.exp(-(spread**2) * (vertical**2 + horizontal**2) / 2)
    return response.astype(np.float32)


def wavelets(height: int, width: int, scale: int) -> Filters:
    """Returns Morlet wavelets at ANGLES angles as frequency responses (ANGLES, height, width)."""
    vertical, horizontal = _frequencies(height, width)
    spread, centre, slant = 0.8 * 2**scale, 3 * math.pi / 4 / 2**scale, 4 / ANGLES
    responses = []
    for angle in np.arange(ANGLES) * math.pi / ANGLES:
        along = horizontal * math.cos(angle) + vertical * math.sin(angle)
        across = (vertical * math.cos(angle) - horizontal * math.sin(angle)) / slant
        bump = np.exp(-(spread**2) * ((along - centre) ** 2 + across**2) / 2)
        still = np.exp(-(spread**2) * (along**2 + across**2) / 2)
        # A mean brightness gives no response.
        responses.append(bump - still * math.exp(-((spread * centre) ** 2) / 2))
    return np.asarray(responses, np.float32)


def _frequencies(height: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    vertical, horizontal = (2 * math.pi * np.fft.fftfreq(size) for size in (height, width))
    return vertical[:, np.newaxis], horizontal[np.newaxis]


def normalize_groups(features: NDArray[np.float32], groups: int = 27) -> NDArray[np.float32]:
    """Returns features (n, h, w, channels) with mean 0 and variance 1 in each of `groups` of each record."""
    count, height, width, channels = features.shape
    grouped = features.reshape(count, height * width, groups, channels // groups)
    mean = grouped.mean(axis=(1, 3), keepdims=True)
    variance = grouped.var(axis=(1, 3), keepdims=True)
    return np.asarray((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(features.shape)
