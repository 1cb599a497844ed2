"""What steps hand to each other: public or charged values, written as JSON."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from fedpipe.data import Schema, Transform
from fedpipe.learning import ModelDefinition
from fedpipe.learning.evaluation import Metrics
from fedpipe.learning.score_curves import ReliabilityPoint, RocPoint
from fedpipe.learning.slices import SliceGroup
from fedpipe.ledger.certificate import Certificate, Commitment, Dropout, PrivacyStatement


class _Artifact(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Spans(_Artifact):
    """Who takes part, with keyed commitments to the records."""

    schema_version: str
    commitments: tuple[Commitment, ...]
    code: dict[str, str] = Field(description="By client, the digest of the code that answers.")
    refusals: dict[str, str]

    @property
    def clients(self) -> tuple[str, ...]:
        """The clients that accepted the run."""
        return tuple(commitment.client for commitment in self.commitments)


class Statistics(_Artifact):
    """Noisy counts of `validate`.

    Attributes:
      label_counts: by client, [train, eval] x [classes in order, unknown].
      column_health: by column, records that are valid, missing, out of range, malformed.
      label_noise_stddev: of each cell of one client's label counts; 0 without privacy.
      column_noise_stddev: of each cell of column_health, a sum over clients.
    """

    label_counts: dict[str, list[list[int]]]
    column_health: dict[str, list[int]]
    label_noise_stddev: float
    column_noise_stddev: float

    def class_counts(self, split: Literal["train", "eval"]) -> list[int]:
        """Returns the noisy number of records of each class, then of unlabelled ones, over all clients."""
        row = 0 if split == "train" else 1
        counts = [table[row] for table in self.label_counts.values()]
        return [sum(column) for column in zip(*counts, strict=True)]

    def train_sizes(self) -> dict[str, float]:
        """Returns each client's noisy number of labelled training records."""
        return {client: float(sum(table[0][:-1])) for client, table in self.label_counts.items()}

    def total_noise_stddev(self, num_cells: int) -> float:
        """Returns the noise of a sum of `num_cells` label cells over all clients."""
        return self.label_noise_stddev * math.sqrt(num_cells * len(self.label_counts))


class Anomaly(_Artifact):
    """Something about the data that a person should look at."""

    column: str
    problem: str
    severity: Literal["warning", "error"]


class Anomalies(_Artifact):
    """All anomalies that `validate` found."""

    found: tuple[Anomaly, ...]


class RoundFigures(_Artifact):
    """What is known of a round of training: functions of releases and of the plan.

    Attributes:
      server_round: from 1.
      num_answered: clients whose sums were added.
      update_norm: L2 norm of the mean gradient, its noise included.
      noise_norm: what that norm is expected to be of noise alone; 0 without noise.
    """

    server_round: int
    num_answered: int
    update_norm: float
    noise_norm: float


class Model(_Artifact):
    """Trained weights (in `weights_file` beside this artifact) and how they came about.

    `noise_to_signal` and the advice drawn from it were known before training; None without noise.
    """

    definition: ModelDefinition
    weights_file: str
    num_rounds: int
    dropouts: tuple[Dropout, ...]
    private: bool
    rounds: tuple[RoundFigures, ...] = ()
    noise_to_signal: float | None = None
    noise_advice: str | None = None


class Evaluation(_Artifact):
    """Private estimates on held-out records. `better_than_chance` is what may be claimed, no more.

    `slices` has a group for the clients and one for each of `analyze.slices`.
    """

    metrics: Metrics
    better_than_chance: bool
    reliability: tuple[ReliabilityPoint, ...]
    roc: tuple[RocPoint, ...]
    noise_stddev: float
    slices: tuple[SliceGroup, ...] = ()


class ModelVersion(_Artifact):
    """A registered version, its guarantee and where its certificate lies (beside this artifact)."""

    name: str
    version: int
    run_id: str
    created_at: str
    privacy: PrivacyStatement
    metrics: Metrics
    better_than_chance: bool
    class_names: tuple[str, ...]
    columns: tuple[str, ...]
    data_schema: Schema
    transform: Transform
    definition: ModelDefinition
    certificate: Certificate


class PushedModel(_Artifact):
    """A version in TensorFlow Serving's layout; `path` is relative to the workspace."""

    name: str
    version: int
    path: str
    status: Literal["private", "NOT PRIVATE"]
    files: dict[str, str] = Field(description="SHA-256 of each file of the version.")
    canary: str = Field(description="What was checked before the version became visible.")
