"""Records divided among owners: by a column, by file or at random, and part by part if they are many."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedpipe.config import Config, FederationSettings
from fedpipe.data.cells import by_distinct, parse_labels
from fedpipe.data.readers import Source, read_chunks, select_columns, source_name
from fedpipe.data.schema import Label
from fedpipe.data.table import Table, TableWriter
from fedpipe.errors import DataError
from fedpipe.scratch import Scratch
from simulations.datasets import load_dataset

NAMED = ("column", "file")  # partitions whose clients are owners, whatever the seed
BYTES_AT_ONCE = 1 << 28  # of text, of all small owners whose records are taken out of the table in one go
MAX_NAME = 60
# fmt: off
LEGAL_FORMS = frozenset((
    "and", "association", "co", "companies", "company", "corp", "corporation", "fsb", "inc", "incorporated",
    "llc", "lllp", "llp", "lp", "lpa", "ltd", "na", "nv", "pc", "plc", "pllc", "sa", "the", "us", "usa",
))
# Left out by some exports; by themselves with one word more they are a name, such as First Financial.
TRADES = frozenset(("bank", "financial", "holdings"))
# fmt: on


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Division:
    """Records, and whose each of them is. Its repr shows none.

    Attributes:
      table: n records as text.
      owners: int64 (n,), places in `names`.
      names: the owners', each once; one may have no records.
    """

    table: Table
    owners: NDArray[np.int64]
    names: tuple[str, ...]

    def sizes(self) -> dict[str, int]:
        """Returns the number of records of each owner."""
        counts = np.bincount(self.owners, minlength=len(self.names))
        return dict(zip(self.names, counts.tolist(), strict=True))

    def renamed(self, names: Mapping[str, str]) -> Division:
        """Returns the records of the owners in `names`, as those of the owners called as it says."""
        places = {name: place for place, name in enumerate(sorted(set(names.values())))}
        place_of = np.array([places.get(names.get(name, ""), -1) for name in self.names], dtype=np.int64)
        owners = place_of[self.owners]
        kept = owners >= 0
        table = self.table if kept.all() else self.table.select(kept)
        return Division(table=table, owners=owners[kept], names=tuple(places))

    def tables(self) -> Iterator[tuple[str, Table]]:
        """Yields every owner's records, in the order of names.

        Of many small owners about `BYTES_AT_ONCE` are in memory at a time, and of a larger one a part:
        each time costs a pass through the table.
        """
        for places in self._batches():
            rows = np.isin(self.owners, places)
            table, owners = self.table.select(rows), self.owners[rows]
            if len(places) == 1:
                yield self.names[places[0]], table
                continue
            order = np.argsort(owners, kind="stable")
            frame, owners = table.to_frame().iloc[order], owners[order]
            for place in places:
                start, end = np.searchsorted(owners, [place, place + 1])
                yield self.names[place], Table.of(frame.iloc[start:end].reset_index(drop=True))

    def _batches(self) -> Iterator[list[int]]:
        """Yields owners in the order of names, as many as have `BYTES_AT_ONCE` of text: one at least."""
        sizes = self.sizes()
        some = next(self.table.parts())
        limit = BYTES_AT_ONCE * len(some) / max(_num_bytes(some), 1)
        batch: list[int] = []
        total = 0
        for name, place in sorted((name, place) for place, name in enumerate(self.names)):
            if batch and total + sizes[name] > limit:
                yield batch
                batch, total = [], 0
            batch.append(place)
            total += sizes[name]
        yield batch


def _num_bytes(frame: pd.DataFrame) -> int:
    return int(frame.memory_usage(deep=True).sum())


def divide(config: Config, files: Sequence[Source], *, seed: int, scratch: Scratch) -> Division:
    """Returns the records of `files`, or of the built-in data set, and whose they are.

    Raises:
      DataError: if there are no labelled records, one class only, fewer records than clients, or names
        of owners that cannot be told apart or are missing.
    """
    settings, schema = config.federation, config.data_schema
    writer, known, labels, owners = TableWriter(scratch), _Names(), [], []
    for file, frame in _pieces(config, files):
        writer.add(frame)
        labels.append(parse_labels(frame[schema.label.name], schema.label, schema.missing_tokens))
        if settings.partition == "column":
            owners.append(known.by_column(frame, schema.client_column, file))
        elif settings.partition == "file":
            owners.append(known.by_file(frame, file))
    table, classes = writer.table(), np.concatenate(labels)
    _check_classes(classes, schema.label)
    if settings.partition not in NAMED:
        return _at_random(table, classes, settings, np.random.default_rng(seed))
    return Division(table=table, owners=np.concatenate(owners), names=known.names)


def _pieces(config: Config, files: Sequence[Source]) -> Iterator[tuple[_File, pd.DataFrame]]:
    """Yields the records of every file, or of the built-in data set: one frame of each at least."""
    schema, source = config.data_schema, str(config.data.source)
    if not files:
        yield _File(source, source), select_columns(load_dataset(source, config.data.limit), schema, source)
    for number, path in enumerate(files, start=1):
        owner = path.stem if isinstance(path, Path) else f"database-{number}"
        file = _File(owner, source_name(path))
        for frame in read_chunks(path, schema):
            yield file, frame


@dataclass(frozen=True, eq=False)
class _File:
    """One of the files: what its owner is called if every file is one, and what messages call it."""

    owner: str
    name: str


class _Names:
    """The owners seen so far, and whose their records are: int64 (n,), places in `names`."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._file_of: dict[str, _File] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._places)

    def by_column(self, frame: pd.DataFrame, column: str | None, file: _File) -> NDArray[np.int64]:
        if column not in frame.columns:
            raise DataError(
                f"Expected the column {column!r} that schema.client_column names in {file.name}, found none: "
                "name another, or leave the file out."
            )

        def places(cells: pd.Series[str]) -> NDArray[np.int64]:
            return np.array([self._place(canonical_company(cell)) for cell in cells], dtype=np.int64)

        return by_distinct(frame[column], places)

    def by_file(self, frame: pd.DataFrame, file: _File) -> NDArray[np.int64]:
        place = self._place(file.owner)
        if self._file_of.setdefault(self.names[place], file) is not file:
            raise DataError(
                "Expected client names that differ in letters and digits, found two alike: rename one."
            )
        return np.full(len(frame), place)

    def _place(self, name: str) -> int:
        return self._places.setdefault(_slug(name), len(self._places))


def _check_classes(labels: NDArray[np.int64], label: Label) -> None:
    if not len(labels):
        raise DataError("Expected records, found a header and nothing below it: see what --data names.")
    found = np.unique(labels[labels >= 0])
    if not len(found):
        raise DataError(
            f"Expected labels {', '.join(label.names)} in column {label.name!r}, "
            "found none of them: list their spellings under schema.label.classes."
        )
    if len(found) == 1 and label.missing == "unknown" and (labels < 0).any():
        raise DataError(
            f"Expected two classes in column {label.name!r}, found only {label.names[found[0]]!r} and empty "
            "or unknown cells: if an empty cell means the first class, set schema.label.missing=negative."
        )


def _at_random(
    table: Table, labels: NDArray[np.int64], settings: FederationSettings, generator: np.random.Generator
) -> Division:
    if len(table) < settings.num_clients:
        raise DataError(
            f"Expected at least one record for each of {settings.num_clients} clients, "
            f"found {len(table)} records: lower federation.num_clients."
        )
    numbers, owners = np.unique(_assign(labels, settings, generator), return_inverse=True)
    width = len(str(settings.num_clients))
    names = tuple(f"client-{number + 1:0{width}d}" for number in numbers)
    return Division(table=table, owners=owners, names=names)


def _assign(
    labels: NDArray[np.int64], settings: FederationSettings, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Returns the client number of every record: int64 (n,)."""
    num_clients = settings.num_clients
    if settings.partition == "iid":
        return generator.permutation(np.arange(len(labels)) % num_clients)
    # Hsu, Qi, Brown 2019 (arXiv:1909.06335): each class is divided by Dirichlet weights of its own.
    owner = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        weights = generator.dirichlet(np.full(num_clients, settings.dirichlet_alpha))
        owner[rows] = generator.choice(num_clients, size=len(rows), p=weights)
    return owner


def canonical_company(name: str) -> str:
    """Returns what the spellings of a company's name have in common.

    >>> canonical_company("WELLS FARGO & COMPANY"), canonical_company("Bank of America, N.A.")
    ('wells fargo', 'bank of america')
    """
    text = re.sub(r"[^0-9a-z]+", " ", name.lower().replace(".", "")).strip()
    words = text.removesuffix(" national association").split()
    while (len(words) > 1 and words[-1] in LEGAL_FORMS) or (len(words) > 2 and words[-1] in TRADES):
        words.pop()
    return " ".join(words)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:MAX_NAME] or "unnamed"
