"""Train: step sizes, dropouts and what stays behind."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedpipe.data import Transform
from fedpipe.data.balance import Balance
from fedpipe.federation import Refusal, Reply, Request
from fedpipe.federation.training_state import CHECKPOINT
from fedpipe.learning import TrainingSettings
from fedpipe.ledger.certificate import Commitment
from server.artifacts import Model, Spans, Statistics
from server.steps.asking import Asker
from server.steps.train import WEIGHTS, train

MakeAsker = Callable[..., Asker]
TRANSFORM = Transform.model_validate(
    {
        "features": [
            {
                "type": "numeric",
                "column": "age",
                "lower": 0.0,
                "upper": 1.0,
                "center": 0.0,
                "scale": 1.0,
            }
        ],
        "missing_tokens": [""],
    }
)
TRAINING = {
    "num_rounds": 3,
    "sampling_probability": 0.5,
    "learning_rate": 1.0,
    "average_last": 0.0,
    "on_missing": "continue",
}


class Updating:
    """Clients a and b; b is away in round 2."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def ask(
        self, request: Request, *, timeout_seconds: float, only: Collection[str] | None = None
    ) -> tuple[list[Reply], list[Refusal]]:
        self.requests.append(request)
        sums = {"sum": np.array([2.0, 0.0], np.float32)}
        replies = [Reply(client=name, arrays=sums) for name in ("a", "b")]
        strangers = [Refusal(client="never-accepted", reason="no claim")]
        if request.server_round == 2:
            return replies[:1], [Refusal(client="node-2", reason="away"), *strangers]
        return replies, strangers


@pytest.fixture(autouse=True)
def no_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(initial_weights=lambda definition, seed: np.zeros(2, np.float32))
    monkeypatch.setitem(sys.modules, "fedpipe.learning.architectures", fake)


def statistics(**sizes: int) -> Statistics:
    return Statistics(
        spans=("undated",),
        label_counts={name: [[[size, 0, 0], [0, 0, 0]]] for name, size in sizes.items()},
        column_health={},
        label_noise_stddev=0.0,
        column_noise_stddev=0.0,
    )


def spans(*clients: str) -> Spans:
    commitments = tuple(Commitment(client=c, span="undated", hmac_sha256="ab" * 32) for c in clients)
    return Spans(schema_version="1", commitments=commitments, code={}, refusals={})


def run(
    make_asker: MakeAsker,
    tmp_path: Path,
    balance: Balance | None = None,
    notes: list[str] | None = None,
    **training: Any,
) -> tuple[Model, Updating]:
    asker = make_asker({}, training=TrainingSettings.model_validate(TRAINING | training))
    clients = Updating()
    asker = Asker(clients=clients, run_id=asker.run_id, terms=asker.terms)
    made = train(
        spans("a", "b"),
        statistics(a=6, b=2),
        TRANSFORM,
        balance or Balance.even(("undated",), 2),
        directory=tmp_path,
        asker=asker,
        seed=0,
        on_round=lambda done, total: None,
        on_note=[].append if notes is None else notes.append,
    )
    return made["model"], clients


def test_weights_are_what_the_rounds_came_to(make_asker: MakeAsker, tmp_path: Path) -> None:
    model, _ = run(make_asker, tmp_path)
    # 4 / (0.5 * 8) = 1 in rounds 1 and 3, 2 / (0.5 * 6) = 2/3 in round 2.
    assert np.load(tmp_path / model.weights_file).tolist() == pytest.approx([-(2 + 2 / 3), 0.0])
    assert (model.num_rounds, model.private, model.definition.num_features) == (3, True, 1)


def test_dropouts_are_the_participants_that_missed_a_round(make_asker: MakeAsker, tmp_path: Path) -> None:
    """Under their own names, not those of their nodes; who never accepted is no dropout."""
    model, _ = run(make_asker, tmp_path)
    assert [(dropout.server_round, dropout.client) for dropout in model.dropouts] == [(2, "b")]


def test_every_round_says_how_long_its_update_was_and_how_long_noise_is(
    make_asker: MakeAsker, tmp_path: Path
) -> None:
    model, _ = run(make_asker, tmp_path)
    assert [figures.num_answered for figures in model.rounds] == [2, 1, 2]
    assert [figures.update_norm for figures in model.rounds] == pytest.approx([1, 2 / 3, 1])
    # z = 2, C = 1, two noisy steps a round, two weights: 2 sqrt(clients * 2 * 2) / (0.5 * records).
    assert model.rounds[0].noise_norm == pytest.approx(2 * 8**0.5 / (0.5 * 8))
    assert model.rounds[1].noise_norm == pytest.approx(2 * 4**0.5 / (0.5 * 6))


def test_killed_after_the_last_round_it_asks_nobody_again(make_asker: MakeAsker, tmp_path: Path) -> None:
    """No client would answer the first round a second time."""
    first, _ = run(make_asker, tmp_path)
    weights = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).unlink()
    assert (tmp_path / CHECKPOINT).exists()
    again, clients = run(make_asker, tmp_path)
    assert clients.requests == []
    assert again == first
    assert (tmp_path / WEIGHTS).read_bytes() == weights


def test_single_local_steps_need_no_sizes_at_clients(make_asker: MakeAsker, tmp_path: Path) -> None:
    _, clients = run(make_asker, tmp_path)
    assert clients.requests[0].values["local_step_sizes"] == {}


def test_several_local_steps_are_told_each_client_s_noisy_size(make_asker: MakeAsker, tmp_path: Path) -> None:
    _, clients = run(make_asker, tmp_path, local_steps=2)
    # The learning rate, 1, over the expected batch of each: 0.5 times 6, 0.5 times 2.
    assert clients.requests[0].values["local_step_sizes"] == pytest.approx({"a": 1 / 3, "b": 1.0})


def test_without_fedprox_nobody_is_pulled(make_asker: MakeAsker, tmp_path: Path) -> None:
    _, clients = run(make_asker, tmp_path, local_steps=2)
    assert clients.requests[0].values["proximal_mus"] == {}


def test_with_fedprox_each_client_is_pulled_by_mu_times_its_expected_batch(
    make_asker: MakeAsker, tmp_path: Path
) -> None:
    _, clients = run(make_asker, tmp_path, local_steps=2, strategy="fedprox", proximal_mu=0.2)
    assert clients.requests[0].values["proximal_mus"] == pytest.approx({"a": 0.2 * 3, "b": 0.2})


def test_fedprox_with_a_single_local_step_says_that_it_has_no_effect(
    make_asker: MakeAsker, tmp_path: Path
) -> None:
    notes: list[str] = []
    run(make_asker, tmp_path, notes=notes, strategy="fedprox")
    assert any("no effect with local_steps=1" in note for note in notes)


def test_who_leaves_and_comes_back_is_told(make_asker: MakeAsker, tmp_path: Path) -> None:
    notes: list[str] = []
    run(make_asker, tmp_path, notes=notes)
    assert [note for note in notes if "Noise" not in note] == [
        "Training goes on without b from round 2: it is not connected, or did not answer",
        "Back in round 3: b.",
    ]


def test_without_an_alert_clients_are_told_of_no_weights(make_asker: MakeAsker, tmp_path: Path) -> None:
    _, clients = run(make_asker, tmp_path)
    assert all("balance" not in request.values for request in clients.requests)


def test_sizes_count_records_as_heavily_as_training_does(make_asker: MakeAsker, tmp_path: Path) -> None:
    balance = Balance(answer="reweight", spans=("undated",), weights=((0.5, 1.0),))
    model, clients = run(make_asker, tmp_path, balance)
    # As in the first test, with half the sizes: 2 + 2/3 becomes 4 + 4/3.
    assert np.load(tmp_path / model.weights_file).tolist() == pytest.approx([-(4 + 4 / 3), 0.0])
    assert all(request.values["balance"] == balance.model_dump(mode="json") for request in clients.requests)
