"""The cycle: seven steps, and what each takes, makes and depends on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from fedpipe.config import Config
from fedpipe.data.transform import Transform
from fedpipe.pipeline import MetadataStore, Pipeline, Progress, Step, Workspace
from server import artifacts
from server.registry import next_version
from server.steps.analyze import analyze
from server.steps.asking import Asker
from server.steps.deploy import deploy
from server.steps.ingest import ingest
from server.steps.preprocess import preprocess
from server.steps.register import register
from server.steps.train import train
from server.steps.validate import validate


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What steps need besides artifacts. `seed` fixes initial weights, never noise or sampling."""

    config: Config
    asker: Asker
    workspace: Workspace
    metadata: MetadataStore
    progress: Progress
    clock: Callable[[], datetime]
    seed: int

    @property
    def identity(self) -> dict[str, str]:
        """What every step depends on: the run and its terms."""
        return {"run_id": self.asker.run_id, "terms": self.asker.terms.digest}

    @property
    def weights_directory(self) -> Path:
        """Where `train` keeps the weights."""
        return self.workspace.step_dir(self.asker.run_id, "train")


def make_pipeline(around: Surroundings) -> Pipeline:
    """Returns the seven steps, bound to what they need besides artifacts."""
    return Pipeline([*_data_steps(around), *_model_steps(around), *_delivery_steps(around)])


def _data_steps(around: Surroundings) -> list[Step]:
    asker, validation = around.asker, around.config.validation
    return [
        Step(
            name="ingest",
            function=partial(ingest, asker=asker),
            inputs=(),
            outputs={"spans": artifacts.Spans},
            settings=around.identity,
        ),
        Step(
            name="validate",
            function=partial(validate, asker=asker, settings=validation),
            inputs=("spans",),
            outputs={"statistics": artifacts.Statistics, "anomalies": artifacts.Anomalies},
            settings=around.identity | {"validation": validation.model_dump(mode="json")},
        ),
        Step(
            name="preprocess",
            function=partial(preprocess, asker=asker),
            inputs=("spans", "statistics"),
            outputs={"transform": Transform},
            settings=around.identity,
        ),
    ]


def _model_steps(around: Surroundings) -> list[Step]:
    asker, seed, settings = around.asker, around.seed, around.config.analyze
    return [
        Step(
            name="train",
            function=partial(
                train,
                asker=asker,
                seed=seed,
                on_round=partial(around.progress.step_progress, "train"),
                on_note=around.progress.note,
            ),
            inputs=("spans", "statistics", "transform"),
            outputs={"model": artifacts.Model},
            settings=around.identity | {"seed": seed},
        ),
        Step(
            name="analyze",
            function=partial(
                analyze,
                asker=asker,
                settings=settings,
                weights_directory=around.weights_directory,
                seed=seed,
            ),
            inputs=("spans", "statistics", "transform", "model"),
            outputs={"evaluation": artifacts.Evaluation},
            settings=around.identity | {"seed": seed} | settings.model_dump(mode="json"),
        ),
    ]


def _delivery_steps(around: Surroundings) -> list[Step]:
    return [
        Step(
            name="register",
            function=partial(
                register,
                asker=around.asker,
                next_version=partial(next_version, around.metadata, around.workspace),
                clock=around.clock,
            ),
            inputs=("spans", "transform", "model", "evaluation"),
            outputs={"model_version": artifacts.ModelVersion},
            settings=around.identity,
        ),
        Step(
            name="deploy",
            function=partial(
                deploy, models_dir=around.workspace.models_dir, weights_directory=around.weights_directory
            ),
            inputs=("model", "model_version"),
            outputs={"pushed_model": artifacts.PushedModel},
            settings=around.identity,
        ),
    ]
