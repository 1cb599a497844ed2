"""Register: a new version of the model, with its signed certificate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from fedpipe.data import Transform
from fedpipe.files import write_text
from fedpipe.ledger.certificate import Certificate, CodeDigests
from fedpipe.ledger.certificate_making import make_certificate
from fedpipe.provenance import code_digest
from fedpipe.signing import SigningKey
from server.artifacts import Evaluation, Model, ModelVersion, Spans
from server.evidence import gather_evidence
from server.steps.asking import Asker

CERTIFICATE = "certificate.json"
COORDINATOR = "server.coordinator"
DISTRIBUTIONS = (
    "fedpipe",
    "tensorflow",
    "tensorflow-privacy",
    "dp-accounting",
    "opendp",
    "cryptography",
    "flwr",
    "numpy",
    "scipy",
)


def register(
    spans: Spans,
    transform: Transform,
    model: Model,
    evaluation: Evaluation,
    *,
    directory: Path,
    asker: Asker,
    next_version: Callable[[str], int],
    made_by: Callable[[], Mapping[str, str]],
    key: Callable[[], SigningKey],
    clock: Callable[[], datetime],
) -> dict[str, ModelVersion]:
    """Returns the ModelVersion; its certificate is a file in `directory` as well.

    `made_by` tells which run made the results of each step, `key` signs for the operator.
    """
    terms = asker.terms
    name, now = terms.model.name, clock().isoformat(timespec="seconds")
    number = next_version(name)
    certificate = _certificate(asker, spans, model, number, directory.parent, made_by(), now).signed(key())
    write_text(directory / CERTIFICATE, certificate.model_dump_json(indent=2) + "\n")
    model_version = ModelVersion(
        name=name,
        version=number,
        run_id=asker.run_id,
        created_at=now,
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


def _certificate(
    asker: Asker,
    spans: Spans,
    model: Model,
    number: int,
    run_directory: Path,
    made_by: Mapping[str, str],
    now: str,
) -> Certificate:
    evidence = gather_evidence(
        run_directory.parent, asker.run_id, plan=asker.terms.plan, clients=spans.clients, made_by=made_by
    )
    return make_certificate(
        asker.terms.plan,
        run_id=asker.run_id,
        model=asker.terms.model.name,
        model_version=number,
        issued_at=now,
        terms_sha256=asker.terms.digest,
        commitments=spans.commitments,
        refused_claims=evidence.refused_claims,
        attestations=evidence.attestations,
        releases=evidence.releases,
        dropouts=model.dropouts,
        earlier_runs=evidence.earlier_runs,
        code=CodeDigests(coordinator=code_digest(COORDINATOR), clients=spans.code),
        versions={distribution: version(distribution) for distribution in DISTRIBUTIONS},
    )
