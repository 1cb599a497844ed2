"""The coordinator: from a configuration to a run of the whole cycle over some clients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import cast

from fedpipe.config import Config
from fedpipe.data.profile import profiled_columns
from fedpipe.data.transform import Transform
from fedpipe.errors import WorkspaceError
from fedpipe.federation import Clients, Request
from fedpipe.federation.terms import RunTerms
from fedpipe.files import digest_json, write_text
from fedpipe.learning.score_histograms import num_histograms
from fedpipe.pipeline import MetadataStore, Pipeline, Progress, Step, Workspace, run_pipeline
from fedpipe.privacy import Demand, PrivacyPlan, calibrate
from server import artifacts
from server.steps.analyze import analyze
from server.steps.asking import Asker
from server.steps.deploy import deploy
from server.steps.ingest import ingest
from server.steps.preprocess import preprocess
from server.steps.register import register
from server.steps.train import train
from server.steps.validate import validate

TERMS = "terms.json"


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What to run, where, and under which name. `seed` fixes initial weights, never noise or sampling."""

    config: Config
    workspace: Workspace
    run_id: str
    seed: int
    resume: bool


def make_plan(config: Config) -> PrivacyPlan:
    """Returns the plan that `config` asks for, calibrated; it depends on public settings alone."""
    schema, training, privacy = config.data_schema, config.training, config.privacy
    keyed = schema.key is not None
    if not privacy.enabled:
        return PrivacyPlan(
            private=False,
            epsilon=privacy.epsilon,
            delta=privacy.delta,
            keyed=keyed,
            randomness=privacy.randomness,
            queries={},
        )
    demand = Demand(
        column_histograms=len(schema.columns),
        feature_histograms=len(profiled_columns(schema)),
        score_histograms=num_histograms(schema.num_classes),
        sampling_probability=training.sampling_probability,
        clipping_norm=training.clipping_norm,
        num_rounds=training.num_rounds,
        local_steps=training.local_steps,
        keyed=keyed,
    )
    return calibrate(
        demand,
        epsilon_target=privacy.epsilon,
        delta=privacy.delta,
        shares=privacy.shares,
        randomness=privacy.randomness,
    )


def make_terms(config: Config) -> RunTerms:
    """Returns what clients are asked to agree to."""
    return RunTerms(
        data_schema=config.data_schema,
        eval_fraction=config.eval_fraction,
        preprocess=config.preprocess,
        model=config.model,
        training=config.training,
        plan=make_plan(config),
    )


def run_cycle(
    request: RunRequest, clients: Clients, *, progress: Progress, clock: Callable[[], datetime]
) -> dict[str, object]:
    """Runs every step over `clients` and returns all artifacts by name.

    The caller holds the workspace's lock. Whatever happens, the paper trail says so.
    """
    metadata = MetadataStore.open(request.workspace.metadata_path)
    metadata.fail_abandoned()
    if not request.resume:
        metadata.create_run(
            request.run_id,
            pipeline=request.config.name,
            config_digest=digest_json(request.config.model_dump(mode="json")),
            created_at=clock(),
            claim_id=request.run_id,
        )
    terms = _frozen_terms(request)
    if terms.plan.private:
        metadata.update_run(request.run_id, epsilon=terms.plan.total_epsilon(), delta=terms.plan.delta)
    asker = Asker(clients=clients, run_id=request.run_id, terms=terms)
    pipeline = make_pipeline(request, asker, metadata, progress, clock)
    made = run_pipeline(
        pipeline,
        workspace=request.workspace,
        metadata=metadata,
        run_id=request.run_id,
        progress=progress,
        clock=clock,
    )
    clients.ask(
        Request(run_id=request.run_id, step="finish"), timeout_seconds=terms.training.round_timeout_seconds
    )
    return dict(made)


def _frozen_terms(request: RunRequest) -> RunTerms:
    """Returns the run's terms: made once, then read, so that a resumed run keeps its claim."""
    path = request.workspace.make_step_dir(request.run_id, "ingest").parent / TERMS
    if request.resume and path.exists():
        return RunTerms.model_validate_json(path.read_text(encoding="utf-8"))
    terms = make_terms(request.config)
    write_text(path, terms.model_dump_json(by_alias=True, indent=2) + "\n")
    return terms


def make_pipeline(
    request: RunRequest,
    asker: Asker,
    metadata: MetadataStore,
    progress: Progress,
    clock: Callable[[], datetime],
) -> Pipeline:
    """Returns the seven steps, bound to what they need besides artifacts."""
    config, terms, workspace = request.config, asker.terms, request.workspace
    weights_directory = workspace.step_dir(request.run_id, "train")
    identity = {"run_id": request.run_id, "terms": terms.digest}
    a = artifacts
    return Pipeline(
        [
            Step(
                name="ingest",
                function=partial(ingest, asker=asker),
                inputs=(),
                outputs={"spans": a.Spans},
                settings=identity,
            ),
            Step(
                name="validate",
                function=partial(validate, asker=asker, settings=config.validation),
                inputs=("spans",),
                outputs={"statistics": a.Statistics, "anomalies": a.Anomalies},
                settings=identity | {"validation": config.validation.model_dump(mode="json")},
            ),
            Step(
                name="preprocess",
                function=partial(preprocess, asker=asker),
                inputs=("spans", "statistics"),
                outputs={"transform": Transform},
                settings=identity,
            ),
            Step(
                name="train",
                function=partial(
                    train, asker=asker, seed=request.seed, on_round=partial(progress.step_progress, "train")
                ),
                inputs=("spans", "statistics", "transform"),
                outputs={"model": a.Model},
                settings=identity | {"seed": request.seed},
            ),
            Step(
                name="analyze",
                function=partial(
                    analyze,
                    asker=asker,
                    num_bins=config.analyze.num_bins,
                    weights_directory=weights_directory,
                    seed=request.seed,
                ),
                inputs=("spans", "statistics", "transform", "model"),
                outputs={"evaluation": a.Evaluation},
                settings=identity | config.analyze.model_dump(mode="json"),
            ),
            Step(
                name="register",
                function=partial(
                    register, asker=asker, next_version=partial(next_version, metadata, workspace), clock=clock
                ),
                inputs=("spans", "transform", "model", "evaluation"),
                outputs={"model_version": a.ModelVersion},
                settings=identity,
            ),
            Step(
                name="deploy",
                function=partial(deploy, models_dir=workspace.models_dir, weights_directory=weights_directory),
                inputs=("model", "model_version"),
                outputs={"pushed_model": a.PushedModel},
                settings=identity,
            ),
        ]
    )


def next_version(metadata: MetadataStore, workspace: Workspace, name: str) -> int:
    """Returns the number after the highest that was registered or pushed under `name`."""
    registered = [version.version for version in model_versions(metadata, workspace) if version.name == name]
    folder = workspace.models_dir / name
    pushed = [int(path.name) for path in folder.glob("*") if path.name.isdigit()] if folder.is_dir() else []
    return max([0, *registered, *pushed]) + 1


def model_versions(metadata: MetadataStore, workspace: Workspace) -> list[artifacts.ModelVersion]:
    """Returns every registered version, oldest first.

    Raises:
      WorkspaceError: if a recorded version's file is gone.
    """
    return [
        _read_version(workspace.root / record.uri) for record in metadata.artifacts_of_type("ModelVersion")
    ]


def _read_version(path: Path) -> artifacts.ModelVersion:
    try:
        return artifacts.ModelVersion.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WorkspaceError(
            f"Expected a registered model version at {path}, found no file: restore it from a backup of the workspace."
        ) from error


def as_version(made: dict[str, object]) -> artifacts.ModelVersion:
    """Returns the registered version among a run's artifacts."""
    return cast(artifacts.ModelVersion, made["model_version"])
