"""Versions of the larger models, trained here, answer on shares as where they are served."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedpipe.encrypted import provisioning
from simulations.benchmarks.encrypted_problems import make_problem
from tests.system.conftest import Shell
from tests.system.encrypted_service import check_agreement, train, up

pytestmark = pytest.mark.slow

SMALL = ("--set", "data.limit=2000", "--set", "model.hidden_units=[16, 4]")


@pytest.mark.parametrize(
    ("kind", "num_records", "words", "bucket"),
    [("wide_and_deep", 512, SMALL, 128), ("cnn_8x8", 48, (), 16)],
)
def test_model_answers_as_where_it_is_served(
    kind: str, num_records: int, words: tuple[str, ...], bucket: int, tmp_path: Path
) -> None:
    from fedpipe.learning.serving import load_signature, predict_frame

    provisioning.install(provisioning.default_home(), print)
    shell = Shell(tmp_path)
    problem = make_problem(kind, tmp_path, num_records, num_rounds=3)
    train(shell, *problem.words[1:], *words)
    with (
        up(shell, problem.model, "--operator-sees-rows", "--buckets", str(bucket)) as service,
        service.active(timeout_seconds=300) as client,
    ):
        frame = problem.records[list(client.card.transform.columns)].fillna("").astype(str).astype(object)
        found = client.predict(frame.to_dict("records"))
    model = tmp_path / "w/models" / problem.model / "1"
    check_agreement(found.probabilities, predict_frame(load_signature(model), frame, list(frame.columns)))
