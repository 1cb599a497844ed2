"""What a simulated run was asked for, kept with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from fedpipe.config import Config, parse_config
from fedpipe.data.databases import is_database
from fedpipe.data.readers import Source, find_files
from fedpipe.files import digest_json
from simulations.population import without_absent_key
from simulations.windows import resolve_spans

MECHANICAL = ("engine", "num_actors")  # settings of `federation` on which no result depends


class SimulationRequest(BaseModel):
    """Everything that decides a simulated run. Kept with it, so that it can be resumed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: dict[str, Any]
    data: tuple[str, ...]
    seed: int
    notes: tuple[str, ...] = ()

    @classmethod
    def make(cls, config: Config, data: Sequence[Source], seed: int) -> SimulationRequest:
        """Returns the request for these settings, with a schema and spans that the data bears."""
        files = find_files(data)
        config, notes = resolve_spans(without_absent_key(config, files), files)
        return cls(
            config=config.model_dump(mode="json", by_alias=True),
            data=tuple(
                source if is_database(source) else str(Path(source).absolute()) for source in map(str, data)
            ),
            seed=seed,
            notes=notes,
        )

    def parsed(self) -> Config:
        """Returns the checked configuration."""
        return parse_config(self.config, source="the stored run")

    def identity(self) -> str:
        """Returns the digest of all that a result depends on: what runs the apps is no part of it."""
        settings = self.model_dump()
        for name in MECHANICAL:
            settings["config"]["federation"].pop(name, None)
        return digest_json(settings)

    def on_engine(self, engine: str) -> SimulationRequest:
        """Returns the same request, to be run by another engine."""
        federation = self.config["federation"] | {"engine": engine}
        return self.model_copy(update={"config": self.config | {"federation": federation}})
