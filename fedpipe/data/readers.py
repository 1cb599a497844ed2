"""Tables from files, every cell as text, every column under its canonical name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from fedpipe.data.schema import Schema, normalize_name
from fedpipe.errors import DataError, nearest

SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


def find_files(paths: Iterable[Path]) -> list[Path]:
    """Returns the data files behind `paths`: files as they are, folders by what they hold.

    Raises:
      DataError: if a path does not exist, has another format, or a folder holds no data.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
            if not inside:
                raise DataError(f"Expected {_formats()} files in {path}, found none.")
            found.extend(inside)
        elif not path.exists():
            raise DataError(f"Expected a file or folder at {path}, found nothing: check the path.")
        elif path.suffix.lower() not in SUFFIXES:
            raise DataError(f"Expected a {_formats()} file, found {path.name}: convert it first.")
        else:
            found.append(path)
    return found


def read_table(path: Path, schema: Schema) -> pd.DataFrame:
    """Returns the records of `path` as text, with the schema's columns under canonical names.

    Columns beyond the schema are dropped. Missing values are empty strings.

    Raises:
      DataError: naming file, line or column where the file does not fit.
    """
    return select_columns(read_raw(path), schema, path.name)


def read_features(path: Path, columns: Iterable[str], aliases: dict[str, tuple[str, ...]]) -> pd.DataFrame:
    """Returns only the named columns of `path`, canonical and as text: input for a prediction."""
    return _select(read_raw(path), {name: aliases.get(name, ()) for name in columns}, path.name)


def check_header(path: Path, schema: Schema) -> None:
    """Raises DataError when `path` lacks a column of the schema; reads no more than it must."""
    match SUFFIXES[path.suffix.lower()]:
        case "csv":
            select_columns(_read_csv(path, num_rows=1), schema, path.name)
        case _:
            read_table(path, schema)


def select_columns(frame: pd.DataFrame, schema: Schema, source: str) -> pd.DataFrame:
    """Returns `frame` with the schema's columns under their canonical names."""
    wanted = schema.required()
    if schema.client_column and normalize_name(schema.client_column) in map(normalize_name, frame.columns):
        wanted[schema.client_column] = ()
    return _select(frame, wanted, source)


def _select(frame: pd.DataFrame, wanted: dict[str, tuple[str, ...]], source: str) -> pd.DataFrame:
    by_name: dict[str, str] = {}
    for column in frame.columns:
        by_name.setdefault(normalize_name(str(column)), column)
    chosen: dict[str, str] = {}
    for name, aliases in wanted.items():
        match = next((by_name[n] for n in map(normalize_name, (name, *aliases)) if n in by_name), None)
        if match is None:
            raise DataError(
                f"Expected a column {name!r} in {source}, found none. {nearest(name, by_name)} "
                "Rename it, or list its name under aliases in the schema."
            )
        chosen[name] = match
    table = frame[list(chosen.values())]
    return table.set_axis(list(chosen), axis=1).reset_index(drop=True)


def read_raw(path: Path) -> pd.DataFrame:
    """Returns all cells of `path` as text, under the names that the file gives."""
    match SUFFIXES.get(path.suffix.lower()):
        case "csv":
            return _read_csv(path)
        case "jsonl":
            return _read_json_lines(path)
        case "parquet":
            return _read_parquet(path)
    raise DataError(f"Expected a {_formats()} file, found {path.name}: convert it first.")


def _read_csv(path: Path, num_rows: int | None = None) -> pd.DataFrame:
    if not path.exists():
        raise DataError(f"Expected a file at {path}, found nothing: check the path.")
    try:
        # index_col=False: a row with one field too many is an error, not a silent index.
        return pd.read_csv(
            path, dtype=str, keep_default_na=False, nrows=num_rows, encoding="utf-8-sig", index_col=False
        )
    except pd.errors.EmptyDataError as error:
        raise DataError(f"Expected a header and rows in {path.name}, found an empty file.") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"Expected UTF-8 text in {path.name}, found other bytes at position {error.start}: save it as UTF-8."
        ) from error
    except pd.errors.ParserError as error:
        raise DataError(f"Expected a well-formed CSV in {path.name}, found {_parser_detail(error)}.") from error


def _parser_detail(error: Exception) -> str:
    # pandas words it as "Expected 3 fields in line 5, saw 4"; nothing of a record is in it.
    match = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
    if match:
        return f"{match[3]} fields instead of {match[1]} in line {match[2]}"
    return "an unclosed quote or a broken line"


def _read_json_lines(path: Path) -> pd.DataFrame:
    rows = []
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                rows.append(_json_row(line, path.name, number))
    if not rows:
        raise DataError(f"Expected one JSON object per line in {path.name}, found an empty file.")
    return pd.DataFrame(rows).fillna("").astype(str)


def _json_row(line: str, source: str, number: int) -> dict[str, str]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"Expected JSON in {source} line {number}, found an error at column {error.colno}.") from error
    if not isinstance(row, dict):
        raise DataError(f"Expected a JSON object in {source} line {number}, found {type(row).__name__}.")
    return {name: "" if value is None else str(value) for name, value in row.items()}


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise DataError(f"Expected a Parquet file at {path.name}, found something else.") from error
    return frame.astype(object).where(frame.notna(), "").astype(str)


def _formats() -> str:
    return ", ".join(sorted(SUFFIXES))
