"""What steps hand to each other: public or charged values, written as JSON."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from fedpipe.data import Schema, Transform
from fedpipe.data.balance import Balance
from fedpipe.learning import ModelDefinition
from fedpipe.learning.evaluation import Metrics
from fedpipe.learning.score_curves import ReliabilityPoint, RocPoint
from fedpipe.learning.slices import SliceGroup
from fedpipe.ledger.certificate import Certificate, Commitment, Dropout, PrivacyStatement


class _Artifact(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Spans(_Artifact):
    """Who takes part, with a keyed commitment to the records of each client and span."""

    schema_version: str
    commitments: tuple[Commitment, ...]
    code: dict[str, str] = Field(description="By client, the digest of the code that answers.")
    refusals: dict[str, str]

    @property
    def clients(self) -> tuple[str, ...]:
        """The clients that accepted the run."""
        return tuple(dict.fromkeys(commitment.client for commitment in self.commitments))


class Statistics(_Artifact):
    """Noisy counts of `validate`.

    Attributes:
      spans: of the run, oldest first.
      label_counts: by client, spans x [train, eval] x [classes in order, unknown].
      column_health: by column, records that are valid, missing, out of range, malformed.
      label_noise_stddev: of each cell of one client's label counts; 0 without privacy.
      column_noise_stddev: of each cell of column_health, a sum over clients.
      user_counts: by client, users with labelled records, [train, eval]; None where records are the unit.
      user_noise_stddev: of each cell of user_counts.
    """

    spans: tuple[str, ...]
    label_counts: dict[str, list[list[list[int]]]]
    column_health: dict[str, list[int]]
    label_noise_stddev: float
    column_noise_stddev: float
    user_counts: dict[str, list[int]] | None = None
    user_noise_stddev: float = 0.0

    def split_counts(self) -> dict[str, list[list[int]]]:
        """Returns each client's noisy counts over all spans: [train, eval] x [classes in order, unknown]."""
        return {
            client: np.sum(np.array(tables, dtype=np.int64), axis=0).tolist()
            for client, tables in self.label_counts.items()
        }

    def class_counts(self, split: Literal["train", "eval"]) -> list[int]:
        """Returns the noisy number of records of each class, then of unlabelled ones, over all clients."""
        row = 0 if split == "train" else 1
        counts = [table[row] for table in self.split_counts().values()]
        return [sum(column) for column in zip(*counts, strict=True)]

    def train_sizes(self, balance: Balance | None = None) -> dict[str, float]:
        """Returns how many units train at each client, noisily counted.

        Users are counted as they are. Labelled records are weighed by `balance`.
        """
        if self.user_counts is not None:
            return {client: float(counts[0]) for client, counts in self.user_counts.items()}
        return {
            client: float(np.sum(np.array(tables)[:, 0, :-1] * _weights(balance)))
            for client, tables in self.label_counts.items()
        }

    def size_noise_stddev(self, num_classes: int, balance: Balance | None = None) -> float:
        """Returns the noise of one client's `train_sizes`."""
        if self.user_counts is not None:
            return self.user_noise_stddev
        weights = np.broadcast_to(_weights(balance), (len(self.spans), num_classes))
        return self.label_noise_stddev * float(np.linalg.norm(weights))

    def total_noise_stddev(self, num_cells: int) -> float:
        """Returns the noise of a sum of `num_cells` label cells over all clients and spans."""
        return self.label_noise_stddev * math.sqrt(num_cells * len(self.label_counts) * len(self.spans))


def _weights(balance: Balance | None) -> NDArray[np.float64]:
    """Returns weights (num_spans, num_classes), or what broadcasts to ones of that shape."""
    return np.array(balance.weights if balance else 1.0, dtype=np.float64)


class Anomaly(_Artifact):
    """Something about the data that a person should look at; a notice never stops a run."""

    column: str
    problem: str
    severity: Literal["notice", "warning", "error"]


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
      set_aside: clients whose updates were left out or shortened, with the reason.
    """

    server_round: int
    num_answered: int
    update_norm: float
    noise_norm: float
    set_aside: dict[str, str] = {}


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
