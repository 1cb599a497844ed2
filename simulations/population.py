"""A simulated population: records divided among clients, each with a file and a key of its own."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedpipe.config import Config, FederationSettings
from fedpipe.data.cells import parse_labels
from fedpipe.data.readers import (
    Source,
    check_header,
    find_files,
    read_header,
    read_table,
    select_columns,
)
from fedpipe.data.schema import Label
from fedpipe.encoding.text import normalize_name
from fedpipe.errors import ConfigError, DataError
from fedpipe.files import make_private_directory, write_atomically
from simulations.datasets import load_dataset
from simulations.pooling import hold_pooling, read_pooling

POOLED = "others"
NAMED = ("column", "file")  # partitions whose clients are owners, whatever the seed
MAX_NAME = 60
# fmt: off
LEGAL_FORMS = frozenset((
    "and", "association", "co", "companies", "company", "corp", "corporation", "fsb", "inc", "incorporated",
    "llc", "lllp", "llp", "lp", "lpa", "ltd", "na", "nv", "pc", "plc", "pllc", "sa", "the", "us", "usa",
))
# Left out by some exports; by themselves with one word more they are a name, such as First Financial.
TRADES = frozenset(("bank", "financial", "holdings"))
# fmt: on


@dataclass(frozen=True, kw_only=True)
class SimulatedClient:
    """One client: its name, its file and its key, as its node is told of them."""

    name: str
    source: Path
    key_path: Path


@dataclass(frozen=True, kw_only=True)
class Population:
    """The clients, and what their making left to be said."""

    clients: tuple[SimulatedClient, ...]
    notes: tuple[str, ...]


def check_sources(config: Config, sources: Sequence[Source]) -> list[Source]:
    """Returns the data files behind `--data`, with their headers checked; reads little.

    Raises:
      DataError, ConfigError: if there is nothing to read or it does not fit the schema.
    """
    partition = config.federation.partition
    if partition == "column" and config.data_schema.client_column is None:
        raise ConfigError(
            "Expected schema.client_column for federation.partition=column, found none: name the column."
        )
    if not sources and config.data.source is None:
        raise ConfigError(f"Expected --data PATH, found none: configuration {config.name!r} brings no data.")
    files = find_files(sources)
    for file in files:
        check_header(file, config.data_schema)
    if partition == "file" and len(files) < 2:
        raise ConfigError(
            f"Expected two files or more for federation.partition=file, found {len(files)}: add --data PATH."
        )
    return files


def without_absent_key(config: Config, files: Sequence[Source]) -> Config:
    """Returns `config` without its key when some file lacks that column.

    Training and evaluation then share a record's budget. Headers are public; no record is read.
    """
    key = config.data_schema.key
    if key is None or all(key in map(normalize_name, read_header(file)) for file in files):
        return config
    return config.model_copy(update={"data_schema": config.data_schema.model_copy(update={"key": None})})


def make_population(
    config: Config, files: Sequence[Source], *, directory: Path, seed: int, pooling: Path | None = None
) -> Population:
    """Divides the records among clients and writes one file for each into `directory`.

    `seed` fixes the division and the clients' keys, hence their splits. `pooling` is the file that
    remembers which owners are pooled: they stay so when they grow, as long as owners have names.

    Raises:
      DataError: if there are no labelled records, one class only, or fewer records than clients.
      WorkspaceError: if `pooling` is damaged.
    """
    divided, settings = _divide(config, files, seed), config.federation
    memory = pooling if settings.partition in NAMED else None
    pooled = _small(divided, settings, read_pooling(memory) if memory else {})
    shards, notes = _settle_small(divided, pooled, settings)
    if memory:
        dropped = pooled if settings.small_clients == "drop" else set()
        hold_pooling(memory, {name: name in pooled for name in divided if name not in dropped})
    make_private_directory(directory)
    clients = [_write_client(name, frame, directory, seed) for name, frame in sorted(shards.items())]
    return Population(clients=tuple(clients), notes=tuple(notes))


def _divide(config: Config, files: Sequence[Source], seed: int) -> dict[str, pd.DataFrame]:
    settings, schema = config.federation, config.data_schema
    tables = [
        (file.stem if isinstance(file, Path) else f"database-{number}", read_table(file, schema))
        for number, file in enumerate(files, start=1)
    ]
    if not files:
        source = str(config.data.source)
        tables = [(source, select_columns(load_dataset(source, config.data.limit), schema, source))]
    frame = pd.concat([table for _, table in tables], ignore_index=True)
    labels = parse_labels(frame[schema.label.name], schema.label, schema.missing_tokens)
    _check_classes(labels, schema.label)
    if settings.partition == "file":
        return _named(tables)
    if settings.partition == "column":
        return _by_column(frame, schema.client_column)
    return _at_random(frame, labels, settings, np.random.default_rng(seed))


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


def _small(
    shards: dict[str, pd.DataFrame], settings: FederationSettings, known: Mapping[str, bool]
) -> set[str]:
    """Returns who counts as small: as `known` from before, else by the number of records."""
    least = 0 if settings.small_clients == "keep" else settings.min_records
    return {name for name, frame in shards.items() if known.get(name, len(frame) < least)}


def _settle_small(
    shards: dict[str, pd.DataFrame], small: set[str], settings: FederationSettings
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Returns the shards after the policy for small clients, and what it did."""
    if not small:
        return shards, []
    kept = {name: frame for name, frame in shards.items() if name not in small}
    clients = "1 client" if len(small) == 1 else f"{len(small)} clients"
    verb = "was" if len(small) == 1 else "were"
    told = f"{clients} with fewer than {settings.min_records} records, now or at first, {verb}"
    if settings.small_clients == "drop":
        if not kept:
            raise DataError(
                f"Expected a client with {settings.min_records} records or more, found none: "
                "lower federation.min_records, or set federation.small_clients=pool."
            )
        return kept, [f"{told} left out (federation.small_clients)."]
    pooled = [kept[POOLED]] if POOLED in kept else []
    kept[POOLED] = pd.concat([*pooled, *(shards[name] for name in sorted(small))], ignore_index=True)
    return kept, [f"{told} pooled into {POOLED!r} (federation.small_clients)."]


def _at_random(
    frame: pd.DataFrame,
    labels: NDArray[np.int64],
    settings: FederationSettings,
    generator: np.random.Generator,
) -> dict[str, pd.DataFrame]:
    if len(frame) < settings.num_clients:
        raise DataError(
            f"Expected at least one record for each of {settings.num_clients} clients, "
            f"found {len(frame)} records: lower federation.num_clients."
        )
    owner = _assign(labels, settings, generator)
    width = len(str(settings.num_clients))
    return {
        f"client-{number + 1:0{width}d}": frame[owner == number].reset_index(drop=True)
        for number in range(settings.num_clients)
        if (owner == number).any()
    }


def _by_column(frame: pd.DataFrame, column: str | None) -> dict[str, pd.DataFrame]:
    if column not in frame.columns:
        raise DataError(
            f"Expected the column {column!r} that schema.client_column names, found none: name another."
        )
    names = {value: _slug(canonical_company(value)) for value in frame[column].unique()}
    groups = frame.groupby(frame[column].map(names), sort=True)
    return {str(name): group.reset_index(drop=True) for name, group in groups}


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


def _named(shards: Sequence[tuple[str, pd.DataFrame]]) -> dict[str, pd.DataFrame]:
    named = {_slug(name): frame.reset_index(drop=True) for name, frame in shards}
    if len(named) < len(shards):
        raise DataError(
            "Expected client names that differ in letters and digits, found two alike: rename one."
        )
    return named


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:MAX_NAME] or "unnamed"


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


def _write_client(name: str, frame: pd.DataFrame, directory: Path, seed: int) -> SimulatedClient:
    client = SimulatedClient(
        name=name, source=directory / f"{name}.parquet", key_path=directory / f"{name}.key"
    )
    _write_once(client.source, _parquet(frame))
    _write_once(client.key_path, hashlib.sha256(f"fedpipe simulation {seed} {name}".encode()).digest())
    return client


def _parquet(frame: pd.DataFrame) -> bytes:
    stream = io.BytesIO()
    frame.to_parquet(stream, index=False)
    return stream.getvalue()


def _write_once(path: Path, content: bytes) -> None:
    """Writes `content` unless it is there: an unchanged file keeps its time."""
    if path.exists() and path.read_bytes() == content:
        os.chmod(path, 0o600)
        return
    write_atomically(path, lambda stream: stream.write(content))
