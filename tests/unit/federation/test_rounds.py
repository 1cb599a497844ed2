"""The round loop: arithmetic by hand, missing clients, resuming."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpipe.errors import FederationError
from fedpipe.federation import Refusal, Reply, Request
from fedpipe.federation.cohort import NO_ANSWER, Clock
from fedpipe.federation.messages import ABSENT
from fedpipe.federation.rounds import Listener, run_rounds
from fedpipe.federation.training_state import TrainingState
from fedpipe.learning import TrainingSettings

Answers = Callable[[Request], Mapping[str, Any]]


STRATEGIES = {
    "fedavg": {},
    "fedavgm": {"momentum": 0.9},
    "fedprox": {"proximal_mu": 0.2},
    "fedadagrad": {},
    "fedadam": {},
    "fedyogi": {},
}


class FakeClients:
    """Answers each request with the arrays that `answers` gives by client name; None is a client away."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self.requests: list[Request] = []

    def ask(
        self, request: Request, *, timeout_seconds: float, only: Collection[str] | None = None
    ) -> tuple[list[Reply], list[Refusal]]:
        self.requests.append(request)
        found = self._answers(request)
        asked = [name for name in sorted(found) if only is None or name in only]
        replies = [
            Reply(client=name, arrays={"sum": np.asarray(found[name], np.float32)})
            for name in asked
            if found[name] is not None
        ]
        away = [name for name in asked if found[name] is None]
        return replies, [Refusal(client=name, reason="away", kind=ABSENT) for name in away]


def settings(**changes: Any) -> TrainingSettings:
    values = {
        "num_rounds": 1,
        "sampling_probability": 0.5,
        "learning_rate": 1.0,
        "average_last": 0.0,
        "on_missing": "continue",
    }
    return TrainingSettings.model_validate(values | changes)


def train(
    tmp_path: Path,
    clients: FakeClients,
    training: TrainingSettings,
    *,
    sizes: Mapping[str, float] | None = None,
    least_total: float = 0.0,
    identity: str = "terms",
    local_step_sizes: Mapping[str, float] | None = None,
    on_round: Callable[[int], None] = lambda done: None,
    on_note: Callable[[str], None] = lambda note: None,
) -> TrainingState:
    seconds = [0.0]

    def sleep(duration: float) -> None:
        seconds[0] += duration

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
        local_step_sizes=local_step_sizes or {},
        listener=Listener(on_round=on_round, on_note=on_note),
        clock=Clock(now=lambda: seconds[0], sleep=sleep),
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
    assert state.history[0].missing == {"b": "away"}
    assert state.history[0].update_norm == 1.0


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
    assert state.moments["velocity"].tolist() == [1.25, 0.0]
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
    assert all(r.values == {"public": 1, "local_step_sizes": {}} for r in clients.requests)


def _walk(request: Request) -> dict[str, Any]:
    """Updates that depend on the weights, with an answer missing now and then."""
    weights = request.arrays["weights"].astype(np.float64)
    swing = np.sin(weights * 7 + request.server_round)
    return {"a": swing * 3, "b": None if request.server_round % 3 == 0 else np.cos(weights)}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("killed_after", range(8))
def test_a_run_resumed_after_any_round_ends_bit_for_bit_like_one_without_interruption(
    tmp_path: Path, killed_after: int, strategy: str
) -> None:
    training = settings(
        num_rounds=7,
        strategy=strategy,
        average_last=0.6,
        learning_rate=0.3,
        learning_rate_schedule="cosine",
        warmup_rounds=2,
        **STRATEGIES[strategy],
    )
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
    assert {name: moment.tobytes() for name, moment in state.moments.items()} == {
        name: moment.tobytes() for name, moment in expected.moments.items()
    }
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


def test_progress_is_told_from_the_resumed_round_on(tmp_path: Path) -> None:
    told: list[int] = []
    train(tmp_path, FakeClients(_walk), settings(num_rounds=2), on_round=told.append)
    assert told == [0, 1, 2]
    told.clear()
    train(tmp_path, FakeClients(_walk), settings(num_rounds=3), on_round=told.append)
    assert told == [2, 3]


def test_too_few_answers_stop_the_run_and_keep_the_rounds_so_far(tmp_path: Path) -> None:
    training = settings(num_rounds=3, min_cohort=2)
    with pytest.raises(FederationError, match=r"min_cohort=2 clients .* found 1\. b says: away.*--resume"):
        train(tmp_path, FakeClients(_walk), training)
    told: list[int] = []
    everybody = FakeClients(lambda request: {**_walk(request), "b": [0, 0]})
    train(tmp_path, everybody, training, on_round=told.append)
    assert told == [2, 3]


def test_too_few_answers_are_waited_for(tmp_path: Path) -> None:
    tries: list[int] = []

    def late(request: Request) -> dict[str, Any]:
        tries.append(request.attempt)
        return {"a": [3, 0], "b": [1, -8] if len(tries) == 6 else None}

    state = train(tmp_path, FakeClients(late), settings(min_cohort=2))
    assert state.history[0].answered == ("a", "b")
    assert state.history[0].retried == ("b",)
    # One attempt, however often it is asked for: another would be another draw of noise.
    assert tries == [0] * 6


def test_a_client_whose_size_was_never_counted_takes_no_part(tmp_path: Path) -> None:
    clients = FakeClients(lambda request: {"a": [3, 0], "b": [1, -8], "late": [100, 100]})
    state = train(tmp_path, clients, settings())
    assert state.weights.tolist() == [0.0, 1.0]
    assert (state.history[0].answered, state.history[0].missing) == (("a", "b"), {})


def test_clients_of_unknown_size_do_not_make_a_cohort(tmp_path: Path) -> None:
    clients = FakeClients(lambda request: {"a": [3, 0], "late": [100, 100]})
    with pytest.raises(FederationError, match=f"found 1. b says: {NO_ANSWER}"):
        train(tmp_path, clients, settings(min_cohort=2))


@pytest.mark.parametrize(
    "update",
    [[1.0], [[1.0, 2.0]], [1.0, 2.0, 3.0], 1.0, [np.nan, 0.0], [np.inf, 0.0], ["text", "text"]],
    ids=str,
)
def test_one_update_that_does_not_fit_makes_its_client_missing_and_nobody_else(
    tmp_path: Path, update: Any
) -> None:
    """Numpy would stretch a shorter one to fit."""

    class Odd(FakeClients):
        def ask(self, request: Request, **how: Any) -> tuple[list[Reply], list[Refusal]]:
            replies, refusals = super().ask(request, **how)
            return [*replies, Reply(client="b", arrays={"sum": np.asarray(update)})], refusals

    clients = Odd(lambda request: {"a": [3, 0]})
    state = train(tmp_path, clients, settings(on_missing="retry"))
    assert state.weights.tolist() == [0.0, -1.0]
    [record] = state.history
    assert record.answered == ("a",)
    assert list(record.missing) == ["b"]
    assert "from b" in record.missing["b"]
    # It would give its stored answer again.
    assert len(clients.requests) == 1


def test_weights_that_an_update_carries_away_stop_the_run(tmp_path: Path) -> None:
    clients = FakeClients(lambda request: {"a": [1e38, 0]})
    with pytest.raises(FederationError, match="finite weights after round 1"):
        train(tmp_path, clients, settings(learning_rate=1000))


def test_a_client_that_comes_back_takes_part_again(tmp_path: Path) -> None:
    notes: list[str] = []
    away = {2: "b", 3: "b"}
    clients = FakeClients(
        lambda request: {name: None if away.get(request.server_round) == name else [4, 0] for name in "ab"}
    )
    state = train(tmp_path, clients, settings(num_rounds=4), on_note=notes.append)
    assert [record.answered for record in state.history] == [("a", "b"), ("a",), ("a",), ("a", "b")]
    # 8 / 4 = 2 with both, 4 / 3 without b.
    assert state.weights[0] == pytest.approx(1 - 2 * (2 + 4 / 3))
    assert notes == ["Training goes on without b from round 2: away", "Back in round 4: b."]


def test_local_step_sizes_follow_the_schedule(tmp_path: Path) -> None:
    clients = FakeClients(lambda request: {"a": [0, 0], "b": [0, 0]})
    training = settings(num_rounds=4, learning_rate_schedule="linear")
    train(tmp_path, clients, training, local_step_sizes={"a": 2.0})
    assert [request.values["local_step_sizes"]["a"] for request in clients.requests] == [2.0, 1.5, 1.0, 0.5]


def test_weights_follow_the_schedule(tmp_path: Path) -> None:
    clients = FakeClients(lambda request: {"a": [4, 0], "b": [0, 0]})
    training = settings(num_rounds=4, learning_rate_schedule="linear")
    assert train(tmp_path, clients, training).weights.tolist() == [1 - (1 + 0.75 + 0.5 + 0.25), -1.0]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_order_in_which_answers_arrive_changes_no_bit(tmp_path: Path, strategy: str) -> None:
    updates = {name: np.random.default_rng(i).normal(size=2) for i, name in enumerate("abcdefg")}
    sizes = dict.fromkeys(updates, 3.0)
    results = []
    for number, order in enumerate(("abcdefg", "gfedcba", "cafgebd")):

        class Shuffled:
            names = order

            def ask(self, request: Request, **how: Any) -> tuple[list[Reply], list[Refusal]]:
                return [
                    Reply(client=name, arrays={"sum": updates[name].astype(np.float32)})
                    for name in self.names
                ], []

        training = settings(num_rounds=3, strategy=strategy)
        state = train(tmp_path / str(number), Shuffled(), training, sizes=sizes)  # type: ignore[arg-type]
        results.append(state.weights.tobytes())
    assert len(set(results)) == 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_updates_of_zero_move_nothing(tmp_path: Path, strategy: str) -> None:
    clients = FakeClients(lambda request: {"a": [0, 0], "b": [0, 0]})
    state = train(tmp_path, clients, settings(num_rounds=3, strategy=strategy))
    assert state.weights.tolist() == [1.0, -1.0]


def test_momentum_makes_fedavg_fedavgm(tmp_path: Path) -> None:
    ends = [
        train(tmp_path / name, FakeClients(_walk), settings(num_rounds=5, strategy=name, momentum=0.7))
        for name in ("fedavg", "fedavgm")
    ]
    assert ends[0].weights.tobytes() == ends[1].weights.tobytes()


def test_a_lying_client_is_set_aside_and_named(tmp_path: Path) -> None:
    """Five honest clients and one whose update points the other way."""
    answers = {f"c{n}": [10.0 + n / 10, 0.0] for n in range(5)} | {"liar": [-1000.0, 0.0]}
    training = settings(num_rounds=2, aggregation="multi_krum", num_byzantine=1, learning_rate=0.1)
    notes: list[str] = []
    state = train(
        tmp_path,
        FakeClients(lambda request: answers),
        training,
        sizes=dict.fromkeys(answers, 10.0),
        on_note=notes.append,
    )
    assert [list(record.set_aside) for record in state.history] == [["liar"], ["liar"]]
    np.testing.assert_allclose(state.weights, [1.0 - 0.1 * 2 * 10.2 / 10 / 0.5, -1.0], rtol=1e-5)
    assert len([note for note in notes if "liar" in note]) == 1
