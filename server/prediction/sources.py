"""Where models lie on disk, and which of their versions should be served."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedpipe.errors import ConfigError

Fingerprint = tuple[tuple[str, int, int], ...]
_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt")
_MAX_VERSION = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class VersionPolicy:
    """Which versions to serve: the `latest` newest, those of `specific`, or all (neither is set)."""

    latest: int | None = 1
    specific: frozenset[int] = frozenset()

    def select(self, versions: frozenset[int]) -> frozenset[int]:
        """Returns those of `versions` that should be served."""
        if self.specific:
            return versions & self.specific
        if self.latest is None:
            return versions
        return frozenset(sorted(versions)[-self.latest :])


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A model to serve: its name, the directory that holds its versions, and which of them."""

    name: str
    base_path: Path
    policy: VersionPolicy = VersionPolicy()
    labels: Mapping[str, int] = field(default_factory=dict)

    def select(self, versions: frozenset[int]) -> frozenset[int]:
        """Returns the versions that policy and labels want, of those that are there."""
        return self.policy.select(versions) | (versions & frozenset(self.labels.values()))


def parse_policy(text: str) -> VersionPolicy:
    """Returns the policy that `latest`, `latest:N`, `all` or a list of versions means.

    >>> parse_policy("1,3").specific == {1, 3}
    True

    Raises:
      ConfigError: it is none of them.
    """
    word, _, count = text.partition(":")
    if text == "all":
        return VersionPolicy(latest=None)
    if word == "latest" and (count or "1").isascii() and (count or "1").isdigit() and int(count or "1"):
        return VersionPolicy(latest=int(count or "1"))
    numbers = [parse_version(number.strip()) for number in text.split(",")]
    chosen = frozenset(number for number in numbers if number is not None)
    if None in numbers or not chosen:
        raise ConfigError(f"Expected latest, latest:N, all or versions such as 1,3, found {text!r}.")
    return VersionPolicy(latest=None, specific=chosen)


def parse_labels(texts: list[str]) -> dict[str, dict[str, int]]:
    """Returns version by label by model, from `[MODEL:]LABEL=VERSION`; model "" stands for all models.

    >>> parse_labels(["heart:stable=3"])
    {'heart': {'stable': 3}}

    Raises:
      ConfigError: one is not of this form.
    """
    found: dict[str, dict[str, int]] = {}
    for text in texts:
        target, equals, number = text.partition("=")
        model, _, label = target.rpartition(":")
        version = parse_version(number)
        if not equals or not label or version is None:
            raise ConfigError(f"Expected --label [MODEL:]LABEL=VERSION, found {text!r}.")
        found.setdefault(model, {})[label] = version
    return found


def parse_version(text: str) -> int | None:
    """Returns the version that a directory or a path names, None if it names none.

    >>> parse_version("007"), parse_version("v7"), parse_version("9" * 30)
    (7, None, None)
    """
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        return None
    return int(text) if int(text) <= _MAX_VERSION else None


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """The models to serve: those of `sources`, or every one that is found under `root`."""

    root: Path | None = None
    sources: tuple[ModelSource, ...] = ()
    policy: VersionPolicy = VersionPolicy()
    labels: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def models(self) -> tuple[ModelSource, ...]:
        """Returns what should be served now.

        Raises:
          OSError: the root cannot be read.
        """
        if self.root is None:
            return self.sources
        with os.scandir(self.root) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir() and entry.name[0] != ".")
        folders = [(name, self.root / name) for name in names if ":" not in name]
        return tuple(self.source(name, path) for name, path in folders if find_versions(path))

    def source(self, name: str, base_path: Path) -> ModelSource:
        """Returns a model with this catalogue's policy and labels."""
        labels = {**self.labels.get("", {}), **self.labels.get(name, {})}
        return ModelSource(name=name, base_path=base_path, policy=self.policy, labels=labels)


def make_catalogue(
    path: Path, *, name: str | None, policy: VersionPolicy, labels: Mapping[str, Mapping[str, int]]
) -> Catalogue:
    """Returns the catalogue of a directory that holds models or, itself, the versions of one.

    Raises:
      ConfigError: there is no such directory.
    """
    if not path.is_dir():
        raise ConfigError(f"Expected a directory of models at {path}, found none.")
    path = path.absolute()
    catalogue = Catalogue(root=path, policy=policy, labels=labels)
    if name is None and not find_versions(path):
        return catalogue
    single = catalogue.source(name or path.name, path)
    return Catalogue(sources=(single,), policy=policy, labels=labels)


def find_versions(base_path: Path) -> dict[int, Path]:
    """Returns the directories of versions that hold a SavedModel; unfinished ones have no number."""
    try:
        with os.scandir(base_path) as entries:
            numbered = [(parse_version(entry.name), Path(entry.path)) for entry in entries]
    except OSError:
        return {}
    return {
        version: path
        for version, path in numbered
        if version is not None and any((path / name).is_file() for name in _MODEL_FILES)
    }


def fingerprint(path: Path) -> Fingerprint:
    """Returns name, size and time of change of every file: it changes while a version is being written.

    Empty for a directory that is being removed.
    """
    found = []
    for folder, _, names in os.walk(path):
        for name in names:
            file = os.path.join(folder, name)
            found.append((file, *_size_and_time(file)))
    return tuple(sorted(found)) if all(size >= 0 for _, size, _ in found) else ()


def _size_and_time(file: str) -> tuple[int, int]:
    try:
        status = os.stat(file)
    except OSError:
        return -1, 0
    return status.st_size, status.st_mtime_ns
