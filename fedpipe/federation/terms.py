"""What a run asks of every client, agreed to once at ingest and never changed."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from fedpipe.data import PreprocessSettings, Schema
from fedpipe.files import ordered_json, sha256
from fedpipe.learning import ModelSettings, TrainingSettings
from fedpipe.privacy import PrivacyPlan


class RunTerms(BaseModel):
    """The public contract of a run. Later requests name the run and add only public values."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    version: Literal[1] = 1
    data_schema: Schema
    eval_fraction: float = Field(gt=0, lt=1)
    preprocess: PreprocessSettings
    model: ModelSettings
    training: TrainingSettings
    plan: PrivacyPlan

    @property
    def digest(self) -> str:
        """SHA-256 of the terms, the order of columns and classes included: what a claim is made for."""
        return sha256(ordered_json(self.model_dump(mode="json")).encode())
