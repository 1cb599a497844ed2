"""Tables from files, every cell as text, every column under its canonical name."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from fedpipe.data import formats
from fedpipe.data.databases import is_database, read_query, read_query_header
from fedpipe.data.embeddings import embed_columns
from fedpipe.data.schema import Schema
from fedpipe.data.table import concatenated
from fedpipe.encoding.text import normalize_name
from fedpipe.errors import DataError

# A file, or a database's URL as `databases` reads it.
Source = Path | str
Names = Sequence[tuple[str, str]]

SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}

_READERS: dict[str, Callable[[Path], Iterator[pd.DataFrame]]] = {
    "csv": formats.read_csv,
    "jsonl": formats.read_json_lines,
    "parquet": formats.read_parquet,
}
_HEADER_READERS: dict[str, Callable[[Path], list[str]]] = {
    "csv": formats.read_csv_header,
    "jsonl": formats.read_json_header,
    "parquet": formats.read_parquet_header,
}


def find_files(sources: Iterable[Source]) -> list[Source]:
    """Returns the data behind `sources`, each once: a folder stands for the files in it.

    Raises:
      DataError: if a path does not exist, has another format, or a folder holds no data.
    """
    found: list[Source] = []
    for source in sources:
        if is_database(str(source)):
            found.append(str(source))
            continue
        path = Path(source)
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if _is_data(file))
            if not inside:
                raise DataError(f"Expected {_formats()} files in {path}, found none.")
            found.extend(inside)
        elif not path.exists():
            raise DataError(f"Expected a file or folder at {path}, found nothing: check the path.")
        else:
            _format(path)
            found.append(path)
    return list(dict.fromkeys(found))


def read_table(path: Source, schema: Schema, names: Names = ()) -> pd.DataFrame:
    """Returns the records of `path` as text, with the schema's columns under canonical names.

    Columns beyond the schema are dropped. Missing values are empty strings. `names` are pairs of a
    canonical name and what this owner calls that column.

    Raises:
      DataError: naming file, line or column where the file does not fit.
    """
    return concatenated(list(read_chunks(path, schema, names)))


def read_chunks(path: Source, schema: Schema, names: Names = ()) -> Iterator[pd.DataFrame]:
    """Yields what `read_table` returns, some records at a time: one frame at least, if an empty one."""
    for frame in read_raw_chunks(path):
        yield embed_columns(select_columns(_renamed(frame, names), schema, source_name(path)), schema)


def read_features(path: Path, schema: Schema) -> pd.DataFrame:
    """Returns only the feature columns of `path`, canonical and as text: input for a prediction."""
    wanted = {name: column.aliases for name, column in schema.columns.items()}
    return embed_columns(_select(read_raw(path), wanted, path.name, schema.optional()), schema)


def read_header(path: Source) -> list[str]:
    """Returns the column names that `path` gives; reads no more than it must."""
    if isinstance(path, str):
        return read_query_header(path)
    with _open_errors(path):
        return _HEADER_READERS[_format(path)](path)


def check_header(path: Source, schema: Schema) -> None:
    """Raises DataError when `path` lacks a column of the schema; reads no more than it must."""
    names = read_header(path)
    # An absent key or date is settled by whoever divides the records; see docs/privacy.md, docs/spans.md.
    settled = {schema.key or "", schema.time.column if schema.time else ""}
    _find_columns(names, _wanted(names, schema), source_name(path), {*schema.optional(), *settled})


def select_columns(frame: pd.DataFrame, schema: Schema, source: str) -> pd.DataFrame:
    """Returns `frame` with the schema's columns under their canonical names."""
    return _select(frame, _wanted(map(str, frame.columns), schema), source, schema.optional())


def source_name(source: Source) -> str:
    """Returns what to call a source in a message; a database's URL may hold a password."""
    return "the database" if isinstance(source, str) else source.name


def read_raw(path: Source) -> pd.DataFrame:
    """Returns all cells of `path` as text, under the names that the file gives."""
    return concatenated(list(read_raw_chunks(path)))


def read_raw_chunks(path: Source) -> Iterator[pd.DataFrame]:
    """Yields what `read_raw` returns, some records at a time: one frame at least, if an empty one."""
    if isinstance(path, str):
        yield from read_query(path)
        return
    with _open_errors(path):
        yield from _READERS[_format(path)](path)


def _renamed(frame: pd.DataFrame, names: Names) -> pd.DataFrame:
    canonical = {normalize_name(own): name for name, own in names}
    found = map(str, frame.columns)
    return frame.set_axis([canonical.get(normalize_name(name), name) for name in found], axis=1)


def _wanted(names: Iterable[str], schema: Schema) -> dict[str, tuple[str, ...]]:
    wanted = schema.known()
    if schema.client_column and schema.client_column in map(normalize_name, names):
        wanted[schema.client_column] = ()
    return wanted


def _select(
    frame: pd.DataFrame, wanted: Mapping[str, tuple[str, ...]], source: str, optional: Collection[str] = ()
) -> pd.DataFrame:
    chosen = _find_columns(map(str, frame.columns), wanted, source, optional)
    table = frame.iloc[:, list(chosen.values())].set_axis(list(chosen), axis=1).reset_index(drop=True)
    for name in wanted:
        if name not in chosen:
            table[name] = ""
    return table[list(wanted)]


def _find_columns(
    names: Iterable[str], wanted: Mapping[str, tuple[str, ...]], source: str, optional: Collection[str] = ()
) -> dict[str, int]:
    """Returns the position of every wanted column among `names`; an absent optional one has none."""
    positions: defaultdict[str, list[int]] = defaultdict(list)
    for position, name in enumerate(names):
        positions[normalize_name(name)].append(position)
    return {
        name: _find_column(name, aliases, positions, source)
        for name, aliases in wanted.items()
        if name not in optional or any(normalize_name(known) in positions for known in (name, *aliases))
    }


def _find_column(name: str, aliases: tuple[str, ...], positions: Mapping[str, list[int]], source: str) -> int:
    found = next((positions[n] for n in map(normalize_name, (name, *aliases)) if n in positions), [])
    if not found:
        raise DataError(
            f"Expected a column {name!r} in {source}, found none. {_hint(name, positions)} "
            "Rename it, list its name under aliases in the schema, or let the node join with "
            f"--column {name}=NAME."
        )
    if len(found) > 1:
        raise DataError(
            f"Expected one column {name!r} in {source}, found {len(found)} whose names mean the same: "
            "drop or rename all but one."
        )
    return found[0]


def _hint(name: str, positions: Mapping[str, list[int]]) -> str:
    # Never all names: where the header is missing, the first record stands in its place.
    close = difflib.get_close_matches(name, positions, n=3)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    return f"None of its {sum(map(len, positions.values()))} names is close: is the first line a header?"


@contextmanager
def _open_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        found = "nothing" if isinstance(error, FileNotFoundError) else error.strerror or "an error"
        raise DataError(f"Expected a readable file at {path}, found {found}: check the path.") from error


def _format(path: Path) -> str:
    try:
        return SUFFIXES[path.suffix.lower()]
    except KeyError:
        raise DataError(f"Expected a {_formats()} file, found {path.name}: convert it first.") from None


def _is_data(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _formats() -> str:
    return ", ".join(sorted(SUFFIXES))
