"""What a run's report shows beside its summary: plain values, every one charged or public."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedpipe.data import Schema
from fedpipe.learning.evaluation import Estimate
from fedpipe.learning.score_curves import ReliabilityPoint, RocPoint
from fedpipe.learning.slices import SliceGroup
from fedpipe.ledger.certificate import Certificate
from fedpipe.pipeline.records import ArtifactRecord, ExecutionRecord


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something about a column that a person should look at."""

    column: str
    problem: str
    severity: str


@dataclass(frozen=True, kw_only=True)
class DataCounts:
    """The noisy counts of `validate` and what they led to. A standard deviation of 0 means exact counts.

    Attributes:
      label_counts: by client, [train, eval] x [classes in order, unknown]; or one such table for each
        span, in order.
      column_health: by column, summed over clients, records by `fedpipe.data.statistics.HEALTH`.
      label_noise_stddev: absolute, of each cell of one client's label counts, of one span.
      column_noise_stddev: absolute, of each cell of column_health.
      findings: what looked suspicious.
      refusals: by client that does not take part, its reason.
      spans: their names, in the order of the counts.
    """

    label_counts: Mapping[str, list[Any]]
    column_health: Mapping[str, list[int]]
    label_noise_stddev: float
    column_noise_stddev: float
    findings: tuple[Finding, ...]
    refusals: Mapping[str, str]
    spans: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Curves of a private evaluation with two classes; empty with more.

    `noise_stddev` is absolute, of each cell of the summed score histograms.
    """

    roc: tuple[RocPoint, ...]
    reliability: tuple[ReliabilityPoint, ...]
    noise_stddev: float


@dataclass(frozen=True, kw_only=True)
class RoundEvidence:
    """A round of training: who answered, and the norm of the mean gradient beside that of its noise.

    `set_aside` names clients whose updates were left out or shortened, with the reason.
    """

    server_round: int
    num_answered: int
    update_norm: float
    noise_norm: float
    set_aside: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the ledgers hold for the records of one split, at the client that has least left of it.

    Attributes:
      split: whose records.
      epsilon: that the lifetime budget amounts to, at `delta`.
      delta: of that budget.
      used: share of the budget that runs hold, this one included.
      by_this_run: share of the budget that this run claimed; 0 if it asked nobody.
      runs_left: further runs like this one that it affords.
      epsilon_of_user: what the budgets of all spans of the run allow together, at `delta`, where the unit is
        a user, who may have records in each of them; None where it is a record.
    """

    split: str
    epsilon: float
    delta: float
    used: float
    by_this_run: float
    runs_left: int
    epsilon_of_user: float | None = None


@dataclass(frozen=True, kw_only=True)
class Repetition:
    """A command that does the run again with fresh noise, and the file of settings that it reads, as YAML."""

    command: str
    file: str
    settings: str


@dataclass(frozen=True, kw_only=True)
class VersionEvidence:
    """A registered version of the same model. `epsilon` is None for one that is NOT PRIVATE."""

    version: int
    created_at: str
    epsilon: float | None
    auc: Estimate
    brier: Estimate


@dataclass(frozen=True, kw_only=True)
class RunEvidence:
    """What stands behind a run's summary.

    Attributes:
      description: one line for people.
      created_at: ISO 8601, when the model version was registered.
      schema: the public columns and classes.
      certificate: the run's privacy certificate.
      counts: what is known of the data.
      curves: what is known of the model's scores.
      executions: every try of every step, in order.
      artifacts: what the steps made.
      settings: the configuration without its schema, by name.
      releases: by step, how many answers of clients this run was charged for.
      slices: quality by client and by category.
      rounds: of training, in order.
      budgets: what is left for later runs, where it is known.
      versions: of the model, this one last.
      repetition: how to do it again, where one command can.
    """

    description: str
    created_at: str
    schema: Schema
    certificate: Certificate
    counts: DataCounts
    curves: Curves
    executions: tuple[ExecutionRecord, ...]
    artifacts: tuple[ArtifactRecord, ...]
    settings: Mapping[str, Any]
    releases: Mapping[str, int] = field(default_factory=dict)
    slices: tuple[SliceGroup, ...] = ()
    rounds: tuple[RoundEvidence, ...] = ()
    budgets: tuple[Budget, ...] = ()
    versions: tuple[VersionEvidence, ...] = ()
    repetition: Repetition | None = None
