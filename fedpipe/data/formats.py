"""Tables as CSV, JSON lines and Parquet hold them: all cells as text, under the file's own names.

Each is read as frames of some records, one frame at least, so a file may be larger than memory.

A message says where a file is broken, never what is written there.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from fedpipe.encoding.text import find_delimiter
from fedpipe.errors import DataError

CHUNK_ROWS = 8192
CHUNK_SIZE = 1 << 25  # characters or bytes: of wide records, a frame has fewer
READ_BYTES = 1 << 20  # of each column of a Parquet file at once

Row = TypeVar("Row")


def read_csv_header(path: Path) -> list[str]:
    """Returns the column names of a CSV file."""
    with _open_text(path) as lines:
        return next(_csv_rows(lines, path.name))


def read_csv(path: Path) -> Iterator[pd.DataFrame]:
    """Yields the records of a CSV file whose rows all have as many fields as its header."""
    with _open_text(path) as lines:
        rows = _csv_rows(lines, path.name)
        names = next(rows)
        for chunk in in_chunks(rows, lambda row: sum(map(len, row))):
            yield pd.DataFrame(chunk, columns=range(len(names)), dtype=str).set_axis(names, axis=1)


def read_json_header(path: Path) -> list[str]:
    """Returns the names that the objects of a file have, in the order of their first use."""
    with _open_text(path) as lines:
        names = dict.fromkeys(name for row in _json_rows(lines, path.name) for name in row)
    if not names:
        raise DataError(f"Expected one JSON object per line in {path.name}, found an empty file.")
    return list(names)


def read_json_lines(path: Path) -> Iterator[pd.DataFrame]:
    """Yields a file of one JSON object per line; a name that a line lacks is an empty cell."""
    names = read_json_header(path)
    with _open_text(path) as lines:
        for chunk in in_chunks(_json_rows(lines, path.name), lambda row: sum(map(len, row.values()))):
            cells = [[row.get(name, "") for name in names] for row in chunk]
            yield pd.DataFrame(cells, columns=range(len(names)), dtype=str).set_axis(names, axis=1)


def in_chunks(rows: Iterable[Row], size: Callable[[Row], int]) -> Iterator[list[Row]]:
    """Yields some rows at a time, an empty list if there are none; `size` measures a row."""
    chunk: list[Row] = []
    total, is_first = 0, True
    for row in rows:
        chunk.append(row)
        total += size(row)
        if len(chunk) == CHUNK_ROWS or total > CHUNK_SIZE:
            yield chunk
            chunk, total, is_first = [], 0, False
    if chunk or is_first:
        yield chunk


def read_parquet_header(path: Path) -> list[str]:
    """Returns the column names of a Parquet file."""
    with _parquet_errors(path):
        return [str(name) for name in pyarrow.parquet.read_schema(path).names]


def read_parquet(path: Path) -> Iterator[pd.DataFrame]:
    """Yields a Parquet file as it is stored: no index, no partitions from the folder's name."""
    with _parquet_errors(path), pyarrow.parquet.ParquetFile(path, buffer_size=READ_BYTES) as file:
        is_empty = True
        for batch in file.iter_batches(_parquet_rows(file.metadata)):
            batch.validate(full=True)
            yield _batch_text(batch, path.name)
            is_empty = False
        if is_empty:
            yield _batch_text(file.schema_arrow.empty_table(), path.name)


def _parquet_rows(metadata: pyarrow.parquet.FileMetaData) -> int:
    """Returns how many records of a file are about a chunk."""
    size: int = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
    num_rows: int = metadata.num_rows
    return max(min(CHUNK_ROWS, CHUNK_SIZE * num_rows // max(size, 1)), 1)


def _batch_text(batch: pa.RecordBatch | pa.Table, source: str) -> pd.DataFrame:
    columns = {index: _column_text(batch.column(index), source) for index in range(batch.num_columns)}
    return pd.DataFrame(columns).set_axis(batch.schema.names, axis=1)


@contextmanager
def _open_text(path: Path) -> Iterator[Iterable[str]]:
    encoding = detect_encoding(path)
    try:
        with path.open(encoding=encoding, newline="") as stream:
            yield stream
    except UnicodeDecodeError:  # not chained: it holds a piece of the file
        raise DataError(
            f"Expected text in {path.name}, found bytes that no encoding explains: save it as UTF-8."
        ) from None


def detect_encoding(path: Path) -> str:
    """Returns the encoding of a text file: by its mark, UTF-8 where that fits, else Windows-1252."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as stream:
        start = stream.read(4)
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        stream.seek(0)
        try:
            while block := stream.read(1 << 20):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            # What older exports and spreadsheets write; every record is kept, at worst with odd accents.
            return "cp1252"
    return "utf-8-sig"


def _csv_rows(lines: Iterable[str], source: str) -> Iterator[list[str]]:
    """Yields the header, then every record."""
    numbered = enumerate(lines)
    skipped, header = next(((number, line) for number, line in numbered if line.strip()), (0, ""))
    width, line = 0, skipped + 1
    try:
        rest = (line for _, line in numbered)
        reader = csv.reader(chain([header], rest), delimiter=find_delimiter(header), strict=True)
        for row in reader:
            width = width or len(row)
            if row and len(row) != width:
                raise DataError(
                    f"Expected {width} fields, as in the header, in {source} line {line}, found {len(row)}: "
                    "look for a missing quote or a row cut short."
                )
            line = skipped + reader.line_num + 1
            if row:
                yield row
    except csv.Error:
        raise DataError(
            f"Expected well-formed CSV in {source}, found a broken quote or a cell of more than "
            f"{csv.field_size_limit()} characters in the record that starts in line {line}."
        ) from None
    if not width:
        raise DataError(f"Expected a header and rows in {source}, found an empty file.")


def _json_rows(lines: Iterable[str], source: str) -> Iterator[dict[str, str]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _json_row(line, source, number)


def _json_row(line: str, source: str, number: int) -> dict[str, str]:
    row = _parse_json(line, source, number)
    if not isinstance(row, dict):
        raise DataError(f"Expected a JSON object in {source} line {number}, found a {type(row).__name__}.")
    cells = {name: cell_text(value) for name, value in row.items()}
    try:
        "".join((*cells, *cells.values())).encode()
    except UnicodeEncodeError:
        raise DataError(
            f"Expected Unicode text in {source} line {number}, found half of a surrogate pair."
        ) from None
    return cells


def _parse_json(line: str, source: str, number: int) -> object:
    try:
        return json.loads(line.rstrip())
    except json.JSONDecodeError as error:
        detail = f"an error at column {error.colno}"
    except (RecursionError, ValueError):
        detail = "a number or a nesting beyond all bounds"
    raise DataError(f"Expected JSON in {source} line {number}, found {detail}.")


@contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # not for what the file holds
        raise DataError(
            f"Expected a Parquet file at {path.name}, found something else or a damaged one: export it again."
        ) from error


def _column_text(column: pa.Array | pa.ChunkedArray, source: str) -> pd.Series[str]:
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return column.fill_null("").to_pandas()
    try:
        return pd.Series([cell_text(value) for value in column.to_pylist()], dtype=str)
    except (ValueError, OverflowError, pa.ArrowException):
        raise DataError(
            f"Expected text, numbers or dates in {source}, found {column.type} cells: convert them."
        ) from None


def cell_text(value: object) -> str:
    """Returns a value as a cell: nothing for NULL and NaN, JSON for what is nested."""
    if isinstance(value, str):
        return value
    if value is None or value != value:  # NaN and NaT
        return ""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
    return str(value)
