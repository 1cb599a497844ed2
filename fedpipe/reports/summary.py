"""The outcome of a run, as `--json` prints it and the report shows it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from fedpipe.learning.evaluation import Metrics
from fedpipe.ledger.certificate import PrivacyStatement
from fedpipe.reports.evidence import Budget


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Paths(_Frozen):
    """Where the run's products lie."""

    report: str
    model: str
    certificate: str
    workspace: str


class SimulationOnly(_Frozen):
    """Exact figures that only a simulation can know; a federation has none of them."""

    exact_metrics: dict[str, float]
    baseline: dict[str, float] = Field(
        description="The same features pooled, logistic regression, no privacy."
    )
    num_examples: dict[str, int]


class RunSummary(_Frozen):
    """What a run did. Everything outside `simulation_only` is charged or public.

    Attributes:
      signed_by: public key of whoever signed the certificate.
      budgets: what is left for later runs, where it is known.
      reused: by step that was taken from another run, that run.
      resumed: whether a step was begun more than once.
    """

    run_id: str
    status: str
    name: str
    model_version: str
    privacy: PrivacyStatement
    metrics: Metrics
    better_than_chance: bool
    num_clients: int
    rounds: int
    warnings: tuple[str, ...]
    simulation_only: SimulationOnly | None
    paths: Paths
    timings_seconds: dict[str, float]
    signed_by: str | None = None
    budgets: tuple[Budget, ...] = ()
    reused: dict[str, str] = {}
    resumed: bool = False
