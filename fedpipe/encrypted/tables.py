"""A CSV file of rows in, a CSV file of predictions out."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import IO

from fedpipe.encoding.text import find_delimiter
from fedpipe.encrypted.client import EncryptedClient, Predictions
from fedpipe.encrypted.rows import find_column
from fedpipe.errors import EncryptedError
from fedpipe.files import write_atomically

CHUNK_ROWS = 4096  # read, encoded and asked at once, which bounds memory

# A record with the line that it starts in.
Record = tuple[int, list[str]]


def predict_file(client: EncryptedClient, source: Path, target: Path) -> int:
    """Writes a prediction for every record of `source` to `target`, all or nothing; returns how many.

    Raises:
      EncryptedError: the file does not fit, naming line and column, or a prediction failed.
    """
    if source.resolve() == target.resolve():
        raise EncryptedError(f"Expected another file than {source} for the output, found the same.")
    num_rows = 0

    def write(stream: IO[bytes]) -> None:
        nonlocal num_rows
        writer = csv.writer(codecs.getwriter("utf-8")(stream), lineterminator="\n")
        scores = [f"probability_{name}" for name in client.card.class_names]
        writer.writerow(["row", *scores, "prediction", "model", "version"])
        for predictions in _predict_chunks(client, source):
            writer.writerows(_lines(predictions, num_rows))
            num_rows += len(predictions.probabilities)

    write_atomically(target, write)
    return num_rows


def _lines(predictions: Predictions, start: int) -> Iterator[list[object]]:
    rows = zip(predictions.probabilities.tolist(), predictions.labels, strict=True)
    for number, (scores, label) in enumerate(rows, start + 1):
        yield [number, *(f"{score:.9g}" for score in scores), label, predictions.model, predictions.version]


def _predict_chunks(client: EncryptedClient, source: Path) -> Iterator[Predictions]:
    with _open(source) as stream:
        records = _records(stream, source.name)
        _, header = next(records)
        columns = client.card.columns
        places = {column: find_column(column, header, source.name) for column in columns}
        while chunk := list(islice(records, CHUNK_ROWS)):
            cells = {column.name: _cells(chunk, places[column]) for column in columns}
            lines = [line for line, _ in chunk]
            yield client.predict_cells(cells, partial(_place, source.name, lines))


def _place(source: str, lines: list[int], row: int) -> str:
    return f"{source} line {lines[row]}"


def _cells(chunk: list[Record], position: int | None) -> list[str]:
    return ["" if position is None else fields[position] for _, fields in chunk]


def _records(lines: Iterator[str], source: str) -> Iterator[Record]:
    """Yields the header, then every record, each with as many fields as the header."""
    width, line = 0, 1
    try:
        head = list(islice(lines, 1))
        reader = csv.reader(chain(head, lines), delimiter=find_delimiter("".join(head)), strict=True)
        for fields in reader:
            width = width or len(fields)
            if fields and len(fields) != width:
                raise EncryptedError(
                    f"Expected {width} fields, as in the header, in {source} line {line}, "
                    f"found {len(fields)}: look for a missing quote or a row cut short."
                )
            if fields:
                yield line, fields
            line = reader.line_num + 1
    except csv.Error:
        raise EncryptedError(
            f"Expected well-formed CSV in {source}, found a broken quote or an overlong cell in the record "
            f"that starts in line {line}."
        ) from None
    if not width:
        raise EncryptedError(f"Expected a header and rows in {source}, found an empty file.")


@contextmanager
def _open(path: Path) -> Iterator[Iterator[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            yield stream
    except UnicodeDecodeError:  # not chained: it holds a piece of the file
        raise EncryptedError(
            f"Expected UTF-8 text in {path.name}, found other bytes: convert the file, then ask again."
        ) from None
    except OSError as error:
        found = "nothing" if isinstance(error, FileNotFoundError) else error.strerror or "an error"
        raise EncryptedError(f"Expected a readable file at {path}, found {found}: check the path.") from error
