"""Free text and pictures as model inputs. The served model has a twin of each rule."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedpipe.encoding.hashing import hash_buckets
from fedpipe.encoding.text import parse_number

# One rule for Python's re and for RE2, after lower-casing ASCII letters.
BETWEEN_WORDS = r"[^0-9a-z$]+"
VECTOR_LIMIT = 10.0

_WHITESPACE = re.compile(r"[ \t\n\r\f\v]+")
_BETWEEN_WORDS = re.compile(BETWEEN_WORDS)


def split_words(text: str) -> list[str]:
    """Returns the words of `text`, which is normalised.

    >>> split_words("they charged $40, twice!")
    ['they', 'charged', '$40', 'twice']
    """
    return _BETWEEN_WORDS.sub(" ", text).strip(" ").split(" ") if text else []


def count_ngrams(texts: Sequence[str], num_buckets: int, longest: int) -> NDArray[np.float32]:
    """Returns which hashed n-grams of up to `longest` words each text has, scaled to unit length.

    float32 (n, num_buckets); a text without words is all zeros.
    """
    rows: list[int] = []
    places: dict[str, int] = {}
    codes: list[int] = []
    for row, text in enumerate(texts):
        words = [word for word in split_words(text) if word]
        for size in range(1, longest + 1):
            for start in range(len(words) - size + 1):
                ngram = " ".join(words[start : start + size])
                codes.append(places.setdefault(ngram, len(places)))
                rows.append(row)
    encoded = np.zeros((len(texts), num_buckets), dtype=np.float32)
    if codes:
        encoded[rows, hash_buckets(list(places), num_buckets)[codes]] = 1
    norms = np.sqrt(encoded.sum(axis=1, keepdims=True))
    scaled: NDArray[np.float32] = encoded / np.maximum(norms, 1)
    return scaled


def parse_vectors(texts: Sequence[str], size: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Returns vectors written as numbers between white space, float32 (n, size), and where one is.

    Numbers are clipped to [-10, 10]; whatever is no vector of that size is zeros.
    """
    vectors = np.zeros((len(texts), size), dtype=np.float32)
    found = np.zeros(len(texts), dtype=bool)
    for row, text in enumerate(texts):
        parts = [part for part in _WHITESPACE.split(text) if part]
        if len(parts) == size:
            numbers = np.array([parse_number(part) for part in parts])
            found[row] = not np.isnan(numbers).any()
            vectors[row] = np.clip(numbers, -VECTOR_LIMIT, VECTOR_LIMIT) if found[row] else 0
    return vectors, found


def base64_length(num_bytes: int) -> int:
    """Returns the characters of `num_bytes` bytes in base64 without padding."""
    return (8 * num_bytes + 5) // 6


def is_image(text: str, num_bytes: int) -> bool:
    """Returns whether `text` is `num_bytes` bytes in URL-safe base64 without padding."""
    return len(text) == base64_length(num_bytes) and re.fullmatch(r"[0-9A-Za-z_-]*", text) is not None


def encode_image(pixels: NDArray[np.uint8]) -> str:
    """Returns the cell that holds a picture."""
    return base64.urlsafe_b64encode(pixels.tobytes()).decode().rstrip("=")


def decode_images(texts: Sequence[str], num_bytes: int) -> NDArray[np.float32]:
    """Returns pictures scaled to [0, 1], float32 (n, num_bytes); zeros for whatever is not one."""
    decoded = np.zeros((len(texts), num_bytes), dtype=np.float32)
    for row, text in enumerate(texts):
        if is_image(text, num_bytes):
            data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            decoded[row] = np.frombuffer(data, dtype=np.uint8) / np.float32(255)
    return decoded
