"""Cells of one column as model inputs. Each rule looks at a cell alone, and runs once per distinct cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fedpipe.encoding.hashing import hash_buckets
from fedpipe.encoding.media import count_ngrams
from fedpipe.encoding.text import find_positions, normalize_text, read_numbers

Item = TypeVar("Item", bound=np.generic)


def by_distinct(cells: Sequence[str], rule: Callable[[list[str]], NDArray[Item]]) -> NDArray[Item]:
    """Returns `rule(cells)` for a rule that looks at each cell alone, run once per distinct cell."""
    places: dict[str, int] = {}
    codes = np.fromiter((places.setdefault(cell, len(places)) for cell in cells), np.int64, len(cells))
    return rule(list(places))[codes]


def find_missing(cells: Sequence[str], missing_tokens: Sequence[str]) -> NDArray[np.bool_]:
    """Returns where a cell means 'no value'."""
    tokens = {normalize_text(token) for token in missing_tokens}
    return np.array([normalize_text(cell) in tokens for cell in cells], dtype=np.bool_)


def scale_numbers(
    cells: Sequence[str],
    missing_tokens: Sequence[str],
    *,
    lower: float,
    upper: float,
    center: float,
    scale: float,
) -> NDArray[np.float32]:
    """Returns (clip(x, lower, upper) - center) / scale, float32 (n,); 0 where x is missing or malformed."""

    def rule(distinct: list[str]) -> NDArray[np.float32]:
        numbers = read_numbers(distinct)
        unusable = np.isnan(numbers) | find_missing(distinct, missing_tokens)
        with np.errstate(over="ignore"):  # infinite, as in the served model
            scaled = (np.clip(numbers, lower, upper) - center) / scale
            return np.where(unusable, 0.0, scaled).astype(np.float32)

    return by_distinct(cells, rule)


def word_positions(
    cells: Sequence[str], missing_tokens: Sequence[str], words: Sequence[str]
) -> NDArray[np.int64]:
    """Returns each cell's place in `words`, int64 (n,); len(words), which is OTHER, for all else."""

    def rule(distinct: list[str]) -> NDArray[np.int64]:
        known = find_positions(map(normalize_text, distinct), words)
        return np.where(find_missing(distinct, missing_tokens), len(words), known)

    return by_distinct(cells, rule)


def bucket_positions(
    cells: Sequence[str], missing_tokens: Sequence[str], num_buckets: int, buckets: Sequence[int]
) -> NDArray[np.int64]:
    """Returns the place of each cell's hash in `buckets`, int64 (n,); len(buckets), OTHER, for all else."""

    def rule(distinct: list[str]) -> NDArray[np.int64]:
        hashes = hash_buckets([normalize_text(cell) for cell in distinct], num_buckets)
        known = find_positions(hashes.tolist(), buckets)
        return np.where(find_missing(distinct, missing_tokens), len(buckets), known)

    return by_distinct(cells, rule)


def ngram_inputs(
    cells: Sequence[str], missing_tokens: Sequence[str], num_buckets: int, longest: int
) -> NDArray[np.float32]:
    """Returns `count_ngrams` of every cell, float32 (n, num_buckets); zeros where it is missing."""
    # Lists: an array of texts gives every one of them the room of the longest.
    missing = find_missing(cells, missing_tokens).tolist()
    texts = ["" if empty else normalize_text(cell) for empty, cell in zip(missing, cells, strict=True)]
    return count_ngrams(texts, num_buckets, longest)
