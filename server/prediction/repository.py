"""Keeps what is loaded in step with the disk: new versions in, old ones out, no request lost.

A version is loaded and warmed up before requests reach it. The one that it replaces is taken off
the routes, finishes what it has, and is freed. A version that cannot be loaded changes nothing but
its own status; it is tried again when its files change.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from server.prediction.batching import Batcher, Observe
from server.prediction.errors import Code, ServingError
from server.prediction.servable import Servable
from server.prediction.sources import Catalogue, Fingerprint, ModelSource, find_versions, fingerprint
from server.prediction.versions import LoadedVersion, Models, ServedModel, State

logger = logging.getLogger("fedpipe.serve")

Headers = tuple[tuple[str, str], ...]
Provenance = Callable[[str, int], Headers]
Found = list[tuple[ModelSource, dict[int, tuple[Path, Fingerprint]]]]


class Repository:
    """Loads and unloads versions into `models`.

    Args:
      num_threads: calls that run at once, and threads of each of TensorFlow's pools.
      max_batch_rows: of joined requests.
      provenance: what is known of a version's origin.
      observe: makes the listener of a model's batches.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        num_threads: int,
        max_batch_rows: int,
        provenance: Provenance = lambda name, version: (),
        observe: Callable[[str], Observe] = lambda name: lambda requests, rows: None,
    ) -> None:
        self.models = Models()
        self.catalogue = catalogue
        self._num_threads = num_threads
        self._max_batch_rows = max_batch_rows
        self._provenance = provenance
        self._observe = observe
        self._runners = ThreadPoolExecutor(num_threads, thread_name_prefix="model")
        self._loaders = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._draining: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()

    async def watch(self, poll_seconds: float) -> None:
        """Follows the disk until it is cancelled."""
        while True:
            await asyncio.sleep(poll_seconds)
            await self.poll()

    async def poll(self) -> None:
        """Looks at the disk once and brings what is served in step with it."""
        async with self._turn:
            loop = asyncio.get_running_loop()
            try:
                found = await loop.run_in_executor(self._loaders, _look, self.catalogue)
            except OSError as error:
                logger.warning("Expected to read the models' directory, found: %s.", error.strerror)
                return
            for source, versions in found:
                model = self.models.by_name.setdefault(source.name, ServedModel(source=source))
                model.source = source
                await self._follow(model, versions)
            for name in self.models.by_name.keys() - {source.name for source, _ in found}:
                self._unload(self.models.by_name[name], self.models.by_name[name].loaded)
                self._forget_when_drained(name)

    async def replace(self, catalogue: Catalogue) -> None:
        """Serves another set of models from now on."""
        self.catalogue = catalogue
        await self.poll()

    async def close(self) -> None:
        """Waits for what is under way, then frees everything."""
        async with self._turn:
            for model in self.models.by_name.values():
                self._unload(model, model.loaded)
        await asyncio.gather(*self._draining)
        self._runners.shutdown(wait=True)
        self._loaders.shutdown(wait=True)

    async def _follow(self, model: ServedModel, versions: dict[int, tuple[Path, Fingerprint]]) -> None:
        # With nothing to lose, what is there is tried at once; later, only what stayed the same for one look.
        trusted = {} if model.loaded else {v: files for v, (_, files) in versions.items()}
        seen = {**model.seen, **trusted}
        whole = True
        while True:
            usable = frozenset(v for v, (_, files) in versions.items() if model.broken.get(v) != files)
            wanted = model.source.select(usable)
            missing = sorted(wanted - model.loaded.keys(), reverse=True)
            # While one that is still being written waits, nothing that serves is taken away.
            steady = [v for v in missing if seen.get(v) == versions[v][1]]
            whole = len(steady) == len(missing)
            if not steady:
                break
            await self._load(model, steady[0], *versions[steady[0]])
        model.seen = {version: files for version, (_, files) in versions.items()}
        if whole:
            gone = model.loaded.keys() - wanted
            # With nothing sound on disk in its place, a version that is still there goes on.
            self._unload(model, gone if wanted else gone - versions.keys())

    async def _load(self, model: ServedModel, version: int, path: Path, files: Fingerprint) -> None:
        name = model.source.name
        model.set_state(version, State.LOADING)
        loop = asyncio.get_running_loop()
        try:
            loaded = await loop.run_in_executor(self._loaders, self._make, name, version, path)
        except Exception as error:  # whatever a model brings along, the others go on
            reason = error if isinstance(error, ServingError) else _unforeseen(error)
            model.broken[version] = files
            model.set_state(version, State.END, code=reason.code, error=str(reason))
            logger.warning("Model %s:%d cannot be served. %s", name, version, reason)
            return
        model.broken.pop(version, None)
        model.loaded[version] = loaded
        model.set_state(version, State.AVAILABLE)
        logger.info("Serving %s:%d.", name, version)

    def _make(self, name: str, version: int, path: Path) -> LoadedVersion:
        servable = Servable(path, num_threads=self._num_threads)
        try:
            servable.warm_up(path)
            headers = self._provenance(name, version)
        except BaseException:
            servable.close()
            raise
        batcher = Batcher(
            servable.run,
            self._runners,
            max_rows=self._max_batch_rows,
            max_parallel=self._num_threads,
            observe=self._observe(name),
        )
        return LoadedVersion(
            name=name,
            version=version,
            servable=servable,
            batcher=batcher,
            headers=headers,
            signature_json=json.dumps(servable.signature_json()),
        )

    def _unload(self, model: ServedModel, versions: Iterable[int]) -> None:
        for version in list(versions):
            loaded = model.loaded.pop(version)
            model.set_state(version, State.UNLOADING)
            task = asyncio.get_running_loop().create_task(self._drain(model, loaded))
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)

    async def _drain(self, model: ServedModel, loaded: LoadedVersion) -> None:
        await loaded.drained()
        await asyncio.get_running_loop().run_in_executor(self._loaders, loaded.servable.close)
        if loaded.version not in model.loaded:
            model.set_state(loaded.version, State.END)
        logger.info("Unloaded %s:%d.", loaded.name, loaded.version)

    def _forget_when_drained(self, name: str) -> None:
        statuses = self.models.by_name[name].statuses.values()
        if all(status.state is State.END for status in statuses):
            del self.models.by_name[name]


def _unforeseen(error: Exception) -> ServingError:
    return ServingError(Code.INTERNAL, f"Expected a model that loads, found {type(error).__name__}.")


def _look(catalogue: Catalogue) -> Found:
    return [(source, _fingerprints(find_versions(source.base_path))) for source in catalogue.models()]


def _fingerprints(paths: dict[int, Path]) -> dict[int, tuple[Path, Fingerprint]]:
    taken = {version: (path, fingerprint(path)) for version, path in paths.items()}
    return {version: (path, files) for version, (path, files) in taken.items() if files}
