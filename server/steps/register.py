"""Register: a new version of the model, with its certificate."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from fedpipe.data import Transform
from fedpipe.files import write_text
from fedpipe.ledger.certificate import make_certificate
from server.artifacts import Evaluation, Model, ModelVersion, Spans
from server.steps.asking import Asker

CERTIFICATE = "certificate.json"
DISTRIBUTIONS = ("fedpipe", "tensorflow", "tensorflow-privacy", "dp-accounting", "opendp", "flwr", "numpy")


def register(
    spans: Spans,
    transform: Transform,
    model: Model,
    evaluation: Evaluation,
    *,
    directory: Path,
    asker: Asker,
    next_version: Callable[[str], int],
    clock: Callable[[], datetime],
) -> dict[str, ModelVersion]:
    """Returns the ModelVersion; its certificate is a file in `directory` as well."""
    terms = asker.terms
    name = terms.model.name
    number = next_version(name)
    certificate = make_certificate(
        terms.plan,
        run_id=asker.run_id,
        model=name,
        model_version=number,
        commitments=spans.commitments,
        dropouts=model.dropouts,
        code={distribution: version(distribution) for distribution in DISTRIBUTIONS},
    )
    write_text(directory / CERTIFICATE, certificate.model_dump_json(indent=2) + "\n")
    model_version = ModelVersion(
        name=name,
        version=number,
        run_id=asker.run_id,
        created_at=clock().isoformat(timespec="seconds"),
        privacy=certificate.privacy,
        metrics=evaluation.metrics,
        better_than_chance=evaluation.better_than_chance,
        class_names=terms.data_schema.label.names,
        columns=transform.columns,
        data_schema=terms.data_schema,
        transform=transform,
        # A model that was trained under another name has this one now.
        definition=model.definition.model_copy(update={"settings": terms.model}),
        certificate=certificate,
    )
    return {"model_version": model_version}
