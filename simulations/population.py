"""A simulated population: records divided among clients, each with a file and a key of its own."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fedpipe.config import Config, FederationSettings
from fedpipe.data.readers import Source, check_header, find_files, read_header
from fedpipe.data.table import Table
from fedpipe.encoding.text import normalize_name
from fedpipe.errors import ConfigError, DataError
from fedpipe.files import make_private_directory, write_atomically
from fedpipe.scratch import Scratch
from simulations.division import NAMED, Division, divide
from simulations.pooling import hold_pooling, read_pooling

POOLED = "others"
BLOCK = 1 << 20


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
    settings, scratch = config.federation, Scratch(directory=directory)
    memory = pooling if settings.partition in NAMED else None
    known = read_pooling(memory) if memory else {}
    divided = divide(config, files, seed=seed, scratch=scratch)
    small = _small(divided.sizes(), settings, known)
    shared, notes = _settle_small(divided, small, settings)
    if memory:
        dropped = small if settings.small_clients == "drop" else set()
        hold_pooling(memory, {name: name in small for name in divided.names if name not in dropped})
    make_private_directory(directory)
    clients = [_write_client(name, table, directory, seed, scratch) for name, table in shared.tables()]
    return Population(clients=tuple(clients), notes=tuple(notes))


def _small(sizes: Mapping[str, int], settings: FederationSettings, known: Mapping[str, bool]) -> set[str]:
    """Returns who counts as small: as `known` from before, else by the number of records."""
    least = 0 if settings.small_clients == "keep" else settings.min_records
    return {name for name, size in sizes.items() if known.get(name, size < least)}


def _settle_small(
    divided: Division, small: set[str], settings: FederationSettings
) -> tuple[Division, list[str]]:
    """Returns the division after the policy for small clients, and what it did."""
    if not small:
        return divided, []
    clients = "1 client" if len(small) == 1 else f"{len(small)} clients"
    verb = "was" if len(small) == 1 else "were"
    told = f"{clients} with fewer than {settings.min_records} records, now or at first, {verb}"
    if settings.small_clients == "pool":
        pooled = {name: POOLED if name in small else name for name in divided.names}
        return divided.renamed(pooled), [f"{told} pooled into {POOLED!r} (federation.small_clients)."]
    kept = {name: name for name in divided.names if name not in small}
    if not kept:
        raise DataError(
            f"Expected a client with {settings.min_records} records or more, found none: "
            "lower federation.min_records, or set federation.small_clients=pool."
        )
    return divided.renamed(kept), [f"{told} left out (federation.small_clients)."]


def _write_client(name: str, table: Table, directory: Path, seed: int, scratch: Scratch) -> SimulatedClient:
    client = SimulatedClient(
        name=name, source=directory / f"{name}.parquet", key_path=directory / f"{name}.key"
    )
    with scratch.open() as content:
        with scratch.room_expected():
            table.write_parquet(content)
        _write_once(client.source, content)
    key = hashlib.sha256(f"fedpipe simulation {seed} {name}".encode()).digest()
    _write_once(client.key_path, io.BytesIO(key))
    return client


def _write_once(path: Path, content: IO[bytes]) -> None:
    """Writes all of `content` unless it is there: an unchanged file keeps its time."""
    if path.exists() and _holds(path, content):
        os.chmod(path, 0o600)
        return
    content.seek(0)
    write_atomically(path, lambda stream: shutil.copyfileobj(content, stream))


def _holds(path: Path, content: IO[bytes]) -> bool:
    content.seek(0)
    with path.open("rb") as stream:
        while (block := stream.read(BLOCK)) == content.read(BLOCK):
            if not block:
                return True
    return False
