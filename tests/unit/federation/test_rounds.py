"""The round loop: arithmetic by hand, missing clients, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpipe.errors import BudgetError, FederationError, WorkspaceError
from fedpipe.federation import Refusal, Reply, Request
from fedpipe.federation.rounds import CHECKPOINT, TrainingState, ask_cohort, run_rounds
from fedpipe.learning import TrainingSettings

Answers = Callable[[Request], Mapping[str, Any]]


class FakeClients:
    """Answers each request with the arrays that `answers` gives by client name; None is a refusal."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self.requests: list[Request] = []

    def ask(self, request: Request, *, timeout_seconds: float) -> tuple[list[Reply], list[Refusal]]:
        self.requests.append(request)
        found = self._answers(request)
        replies = [
            Reply(client=name, arrays={"sum": np.asarray(found[name], np.float32)})
            for name in sorted(found)
            if found[name] is not None
        ]
        return replies, [Refusal(client=name, reason="away") for name in sorted(found) if found[name] is None]


def settings(**changes: Any) -> TrainingSettings:
    values = {"num_rounds": 1, "sampling_probability": 0.5, "learning_rate": 1.0, "average_last": 0.0}
    return TrainingSettings.model_validate(values | changes)


def train(
    tmp_path: Path,
    clients: FakeClients,
    training: TrainingSettings,
    *,
    sizes: Mapping[str, float] | None = None,
    least_total: float = 0.0,
    identity: str = "terms",
    on_round: Callable[[int], None] = lambda done: None,
) -> TrainingState:
    return run_rounds(
        clients,
        run_id="run-1",
        settings=training,
        initial=np.array([1.0, -1.0], np.float32),
        values={"public": 1},
        sizes={"a": 6.0, "b": 2.0} if sizes is None else sizes,
        least_total=least_total,
        directory=tmp_path,
        identity=identity,
        on_round=on_round,
    )


def test_the_aggregate_is_the_sum_over_q_times_the_sizes(tmp_path: Path) -> None:
    clients = FakeClients(lambda request: {"a": [3, 0], "b": [1, -8]})
    # (3 + 1) / (0.5 * (6 + 2)) = 1 and (0 - 8) / 4 = -2, subtracted from (1, -1).
    assert train(tmp_path, clients, settings()).weights.tolist() == [0.0, 1.0]


def test_a_missing_client_leaves_sum_and_divisor(tmp_path: Path) -> None:
    clients = FakeClients(lambda request: {"a": [3, 0], "b": None})
    # 3 / (0.5 * 6) = 1.
    state = train(tmp_path, clients, settings())
    assert state.weights.tolist() == [0.0, -1.0]
    assert state.history[0].answered == ("a",)
    assert state.history[0].missing == ("b",)


def test_a_total_that_may_be_noise_is_raised_to_the_least(tmp_path: Path) -> None:
    clients = FakeClients(lambda request: {"a": [40, 0], "b": [0, 0]})
    # 40 / (0.5 * 80) = 1; the noisy sizes 6 + 2 alone would give 10.
    assert train(tmp_path, clients, settings(), least_total=80.0).weights.tolist() == [0.0, -1.0]


@pytest.mark.parametrize("sizes", [{"a": -5.0, "b": 2.0}, {"a": 0.0, "b": 0.0}])
def test_a_total_is_never_below_one_record(tmp_path: Path, sizes: dict[str, float]) -> None:
    clients = FakeClients(lambda request: {"a": [0.5, 0], "b": [0, 0]})
    assert train(tmp_path, clients, settings(), sizes=sizes).weights.tolist() == [0.0, -1.0]


def test_momentum_carries_a_part_of_the_last_velocity(tmp_path: Path) -> None:
    sums = {1: [4, 0], 2: [0, 0], 3: [4, 0]}
    clients = FakeClients(lambda request: {"a": sums[request.server_round], "b": [0, 0]})
    # Gradients 1, 0, 1; velocities 1, 0.5, 1.25; from 1 by step size 2.
    state = train(tmp_path, clients, settings(num_rounds=3, momentum=0.5, learning_rate=2.0))
    assert state.velocity.tolist() == [1.25, 0.0]
    assert state.weights.tolist() == [1 - 2 * (1 + 0.5 + 1.25), -1.0]


@pytest.mark.parametrize(
    ("average_last", "expected"),
    [(0.0, -3.0), (0.01, -3.0), (0.5, -2.5), (0.75, -2.0), (1.0, -1.5)],
)
def test_the_result_is_the_mean_of_the_last_iterates(
    tmp_path: Path, average_last: float, expected: float
) -> None:
    clients = FakeClients(lambda request: {"a": [4, 0], "b": [0, 0]})
    # The first weight goes 1, 0, -1, -2, -3.
    state = train(tmp_path, clients, settings(num_rounds=4, average_last=average_last))
    assert state.weights.tolist() == [-3.0, -1.0]
    assert state.result.tolist() == [expected, -1.0]
    assert state.result.dtype == np.float32


def test_the_number_of_averaged_iterates_is_free_of_rounding(tmp_path: Path) -> None:
    clients = FakeClients(lambda request: {"a": [0, 0], "b": [0, 0]})
    assert train(tmp_path, clients, settings(num_rounds=10, average_last=0.9)).num_averaged == 9


def test_requests_carry_round_weights_and_public_values(tmp_path: Path) -> None:
    clients = FakeClients(lambda request: {"a": [4, 0], "b": [0, 0]})
    train(tmp_path, clients, settings(num_rounds=2))
    assert [(r.step, r.server_round, r.attempt, r.run_id) for r in clients.requests] == [
        ("train", 1, 0, "run-1"),
        ("train", 2, 0, "run-1"),
    ]
    assert [r.arrays["weights"].tolist() for r in clients.requests] == [[1.0, -1.0], [0.0, -1.0]]
    assert all(r.values == {"public": 1} for r in clients.requests)


def _walk(request: Request) -> dict[str, Any]:
    """Updates that depend on the weights, with an answer missing now and then."""
    weights = request.arrays["weights"].astype(np.float64)
    swing = np.sin(weights * 7 + request.server_round)
    return {"a": swing * 3, "b": None if request.server_round % 3 == 0 else np.cos(weights)}


@pytest.mark.parametrize("killed_after", [0, 1, 4, 6, 7])
def test_a_resumed_run_ends_bit_for_bit_like_one_without_interruption(
    tmp_path: Path, killed_after: int
) -> None:
    training = settings(num_rounds=7, momentum=0.9, average_last=0.6, learning_rate=0.3)
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    expected = train(straight, FakeClients(_walk), training)

    def kill(done: int) -> None:
        if done == killed_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(broken, FakeClients(_walk), training, on_round=kill)
    again = FakeClients(_walk)
    state = train(broken, again, training)
    assert [request.server_round for request in again.requests] == list(range(killed_after + 1, 8))
    assert state.weights.tobytes() == expected.weights.tobytes()
    assert state.velocity.tobytes() == expected.velocity.tobytes()
    assert state.result.tobytes() == expected.result.tobytes()
    assert state.history == expected.history


def test_a_round_that_was_not_checkpointed_is_asked_for_in_the_very_same_words(tmp_path: Path) -> None:
    """So that clients that have answered it already give their stored answers."""
    asked = []

    def die_in_round_three(request: Request) -> Mapping[str, Any]:
        if request.server_round == 3:
            asked.append(request.digest)
            raise KeyboardInterrupt
        return _walk(request)

    training = settings(num_rounds=3)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, FakeClients(die_in_round_three), training)
    again = FakeClients(_walk)
    train(tmp_path, again, training)
    assert [request.digest for request in again.requests] == asked


def test_a_finished_run_asks_nobody_again(tmp_path: Path) -> None:
    """The process may die after the last round and before the step is recorded."""
    training = settings(num_rounds=2)
    first = train(tmp_path, FakeClients(_walk), training)
    again = FakeClients(_walk)
    assert train(tmp_path, again, training).weights.tobytes() == first.weights.tobytes()
    assert again.requests == []


def test_a_checkpoint_of_other_terms_is_not_used(tmp_path: Path) -> None:
    training = settings(num_rounds=2)
    train(tmp_path, FakeClients(_walk), training, identity="terms")
    again = FakeClients(_walk)
    train(tmp_path, again, training, identity="other terms")
    assert [request.server_round for request in again.requests] == [1, 2]


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "flipped", "no-head"])
def test_a_damaged_checkpoint_is_an_error_and_stays(tmp_path: Path, damage: str) -> None:
    training = settings(num_rounds=2)
    train(tmp_path, FakeClients(_walk), training)
    path = tmp_path / CHECKPOINT
    good = path.read_bytes()
    middle = len(good) // 2
    bad = {
        "empty": b"",
        "cut": good[:middle],
        "text": b"no checkpoint",
        "flipped": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
    }
    if damage == "no-head":
        np.savez(path, weights=np.zeros(2))
    else:
        path.write_bytes(bad[damage])
    before, again = path.read_bytes(), FakeClients(_walk)
    with pytest.raises(WorkspaceError, match="checkpoint"):
        train(tmp_path, again, training)
    assert again.requests == []
    assert path.read_bytes() == before


def test_progress_is_told_from_the_resumed_round_on(tmp_path: Path) -> None:
    told: list[int] = []
    train(tmp_path, FakeClients(_walk), settings(num_rounds=2), on_round=told.append)
    assert told == [0, 1, 2]
    told.clear()
    train(tmp_path, FakeClients(_walk), settings(num_rounds=3), on_round=told.append)
    assert told == [2, 3]


def test_too_few_answers_stop_the_run_and_keep_the_rounds_so_far(tmp_path: Path) -> None:
    training = settings(num_rounds=3, min_cohort=2)
    with pytest.raises(FederationError, match=r"min_cohort=2 clients .* found 1\. b says: away"):
        train(tmp_path, FakeClients(_walk), training)
    told: list[int] = []
    with pytest.raises(FederationError):
        train(tmp_path, FakeClients(_walk), training, on_round=told.append)
    assert told == [2]


def test_a_client_whose_size_was_never_counted_is_missing(tmp_path: Path) -> None:
    clients = FakeClients(lambda request: {"a": [3, 0], "b": [1, -8], "late": [100, 100]})
    state = train(tmp_path, clients, settings())
    assert state.weights.tolist() == [0.0, 1.0]
    assert state.history[0].missing == ("late",)


def test_clients_of_unknown_size_do_not_make_a_cohort(tmp_path: Path) -> None:
    clients = FakeClients(lambda request: {"a": [3, 0], "late": [100, 100]})
    with pytest.raises(FederationError, match="found 1"):
        train(tmp_path, clients, settings(min_cohort=2))


@pytest.mark.parametrize("update", [[1.0], [[1.0, 2.0]], [1.0, 2.0, 3.0], 1.0, [np.nan, 0.0]], ids=str)
def test_an_update_that_does_not_fit_the_weights_is_refused(tmp_path: Path, update: Any) -> None:
    """Numpy would stretch a shorter one to fit."""
    with pytest.raises(FederationError, match="from a"):
        train(tmp_path, FakeClients(lambda request: {"a": update}), settings())


def _refusing(*refusals: Refusal) -> Any:
    class Refusing:
        def ask(self, request: Request, *, timeout_seconds: float) -> tuple[list[Reply], list[Refusal]]:
            return [], list(refusals)

    return Refusing()


def test_refused_budgets_are_a_budget_error() -> None:
    reason = "Requested: 2, remaining: 1, difference: 1."
    clients = _refusing(
        Refusal(client="a", reason="away"),
        Refusal(client="b", reason=reason, kind="BudgetError"),
        Refusal(client="c", reason=reason, kind="BudgetError"),
    )
    with pytest.raises(BudgetError, match=r"Requested: 2, remaining: 1.*\(2 clients refused\.\)") as caught:
        ask_cohort(clients, Request(run_id="r", step="ingest"), settings())
    assert caught.value.exit_code == 3


def test_other_refusals_are_a_federation_error() -> None:
    with pytest.raises(FederationError, match="a says: away") as caught:
        ask_cohort(_refusing(Refusal(client="a", reason="away")), Request(run_id="r", step="x"), settings())
    assert caught.value.exit_code == 2


def test_the_wait_for_a_round_is_the_configured_one() -> None:
    waits = []

    class Waiting:
        def ask(self, request: Request, *, timeout_seconds: float) -> tuple[list[Reply], list[Refusal]]:
            waits.append(timeout_seconds)
            return [Reply(client="a")], []

    ask_cohort(Waiting(), Request(run_id="r", step="x"), settings(round_timeout_seconds=3.5))
    assert waits == [3.5]
