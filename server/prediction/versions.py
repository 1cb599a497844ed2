"""What is loaded, and what became of each version: the state that requests are routed by."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from server.prediction.batching import Batcher
from server.prediction.errors import Code, ServingError, invalid, shorten, unknown_model
from server.prediction.servable import Servable
from server.prediction.sources import Fingerprint, ModelSource

_MAX_ENDED = 10


class State(enum.Enum):
    """A version's life, with TensorFlow Serving's numbers."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True, kw_only=True)
class VersionStatus:
    """A version's state; `error` says why a version ended that never served."""

    version: int
    state: State
    code: Code = Code.OK
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Query:
    """Which version a request asks for: of this number, of this label, or the newest."""

    name: str
    version: int | None = None
    label: str | None = None


@dataclass(kw_only=True, eq=False)
class LoadedVersion:
    """A version that answers. `headers` tell clients where it comes from."""

    name: str
    version: int
    servable: Servable
    batcher: Batcher
    headers: tuple[tuple[str, str], ...] = ()
    signature_json: str = ""
    num_requests: int = 0
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keeps the version in memory while the block runs."""
        self.num_requests += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.num_requests -= 1
            if not self.num_requests:
                self._idle.set()

    async def drained(self) -> None:
        """Returns when nobody uses the version any more."""
        if self.num_requests:
            await self._idle.wait()


@dataclass(kw_only=True, eq=False)
class ServedModel:
    """A model, its loaded versions and the fate of the others."""

    source: ModelSource
    loaded: dict[int, LoadedVersion] = field(default_factory=dict)
    statuses: dict[int, VersionStatus] = field(default_factory=dict)
    broken: dict[int, Fingerprint] = field(default_factory=dict)
    seen: dict[int, Fingerprint] = field(default_factory=dict)

    def set_state(self, version: int, state: State, *, code: Code = Code.OK, error: str = "") -> None:
        """Records a version's state; of those that ended, the newest few are remembered."""
        self.statuses[version] = VersionStatus(version=version, state=state, code=code, error=error)
        ended = sorted(v for v, status in self.statuses.items() if status.state is State.END)
        for old in ended[:-_MAX_ENDED]:
            del self.statuses[old]


class Models:
    """All models by name. Used on the event loop only."""

    def __init__(self) -> None:
        self.by_name: dict[str, ServedModel] = {}

    def find(self, query: Query) -> LoadedVersion:
        """Returns the loaded version that a request means.

        Raises:
          ServingError: it is not loaded.
        """
        model = self.by_name.get(query.name)
        version = query.version
        if query.label is not None:
            version = self._labelled(model, query)
        if version is None:
            if model is None or not model.loaded:
                raise ServingError(
                    Code.NOT_FOUND, f"Servable not found for request: Latest({shorten(query.name)})"
                )
            return model.loaded[max(model.loaded)]
        if model is None or version not in model.loaded:
            raise ServingError(
                Code.NOT_FOUND, f"Servable not found for request: Specific({shorten(query.name)}, {version})"
            )
        return model.loaded[version]

    def statuses(self, query: Query) -> list[VersionStatus]:
        """Returns the states of a model's versions, newest first, or of the one asked for.

        Raises:
          ServingError: nothing is known of it.
        """
        model = self.by_name.get(query.name)
        if model is None or not model.statuses:
            raise unknown_model(query.name)
        version = self._labelled(model, query) if query.label is not None else query.version
        if version is None:
            return [model.statuses[number] for number in sorted(model.statuses, reverse=True)]
        if version not in model.statuses:
            raise ServingError(
                Code.NOT_FOUND, f"Could not find version {version} of model {shorten(query.name)}"
            )
        return [model.statuses[version]]

    def ready(self) -> bool:
        """Whether there are models and each of them has a version that answers."""
        return bool(self.by_name) and all(model.loaded for model in self.by_name.values())

    def _labelled(self, model: ServedModel | None, query: Query) -> int:
        if model is None:
            raise unknown_model(query.name)
        labels: Mapping[str, Any] = model.source.labels
        label = query.label or ""
        if label not in labels:
            raise invalid(f"Unrecognized servable version label: {shorten(label)}")
        return int(labels[label])
