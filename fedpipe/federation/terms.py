"""What a run asks of every client, agreed to once at ingest and never changed."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from fedpipe.data import PreprocessSettings, Schema
from fedpipe.data.spans import UNDATED, check_spans
from fedpipe.errors import ConfigError, FederationError
from fedpipe.files import ordered_json, sha256
from fedpipe.learning import ModelSettings, TrainingSettings
from fedpipe.privacy import PrivacyPlan


class RunTerms(BaseModel):
    """The public contract of a run. Later requests name the run and add only public values.

    `spans` are declared by the coordinator, by the clock or by name, and never observed: a client
    whose records lie in none of them answers like any other.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    version: Literal[1] = 1
    data_schema: Schema
    spans: tuple[str, ...] = (UNDATED,)
    eval_fraction: float = Field(gt=0, lt=1)
    preprocess: PreprocessSettings
    model: ModelSettings
    training: TrainingSettings
    plan: PrivacyPlan

    @property
    def digest(self) -> str:
        """SHA-256 of the terms, the order of columns and classes included: what a claim is made for."""
        return sha256(ordered_json(self.model_dump(mode="json")).encode())

    def check_spans(self) -> None:
        """Raises FederationError unless `spans` are what the schema's time column makes, each named once."""
        time = self.data_schema.time
        try:
            check_spans(self.spans, time.window if time else None)
        except ConfigError as error:
            raise FederationError(str(error)) from error
