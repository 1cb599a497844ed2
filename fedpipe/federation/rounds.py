"""The round loop: ask, sum, step, checkpoint. It can be killed anywhere and goes on from the last round."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpipe.errors import BudgetError, FederationError
from fedpipe.federation.messages import Clients, Refusal, Reply, Request, sum_arrays
from fedpipe.files import canonical_json, write_atomically
from fedpipe.learning import TrainingSettings
from fedpipe.learning.vectors import Vector

CHECKPOINT = "checkpoint.npz"


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """What a round really had: who answered, who did not. Names are for the operator's eyes."""

    server_round: int
    answered: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """All that the next round depends on.

    Attributes:
      weights: float32 (num_parameters,), after `server_round` rounds.
      velocity: float64 (num_parameters,), server momentum.
      iterate_sum: float64 (num_parameters,), sum of the last `num_averaged` iterates.
    """

    weights: Vector
    velocity: NDArray[np.float64]
    iterate_sum: NDArray[np.float64]
    num_averaged: int = 0
    server_round: int = 0
    history: tuple[RoundRecord, ...] = field(default=())

    @classmethod
    def start(cls, weights: Vector) -> TrainingState:
        """Returns the state before the first round."""
        zeros = np.zeros(weights.size)
        return cls(weights=weights, velocity=zeros, iterate_sum=zeros.copy())

    @property
    def result(self) -> Vector:
        """The trained weights: the mean of the averaged iterates, or the last one."""
        if not self.num_averaged:
            return self.weights
        return (self.iterate_sum / self.num_averaged).astype(np.float32)


def run_rounds(
    clients: Clients,
    *,
    run_id: str,
    settings: TrainingSettings,
    initial: Vector,
    values: Mapping[str, Any],
    sizes: Mapping[str, float],
    least_total: float,
    directory: Path,
    identity: str,
    on_round: Callable[[int], None],
) -> TrainingState:
    """Returns the state after all rounds, resuming from the checkpoint in `directory` if it is this run's.

    The aggregate of a round is the sum of the clients' noisy sums, divided by
    sampling_probability times the noisily counted size of those that answered. Everything done
    to it is post-processing.

    Args:
      values: public values that every request carries.
      sizes: noisily counted training records of each client.
      least_total: a total below this is noise, and is raised to it.
      identity: digest of the run's terms; a checkpoint of another is not used.
      on_round: told how many rounds are done.

    Raises:
      FederationError: fewer clients than `settings.min_cohort` answered a round.
    """
    path = directory / CHECKPOINT
    state = _load(path, identity) or TrainingState.start(initial)
    on_round(state.server_round)
    while state.server_round < settings.num_rounds:
        server_round = state.server_round + 1
        request = Request(
            run_id=run_id,
            step="train",
            server_round=server_round,
            values=values,
            arrays={"weights": state.weights},
        )
        replies, refusals = ask_cohort(clients, request, settings)
        total = max(sum(sizes[reply.client] for reply in replies), least_total, 1.0)
        gradient = sum_arrays(replies, "sum").astype(np.float64) / (settings.sampling_probability * total)
        state = _advance(state, gradient, settings, _record(server_round, replies, refusals))
        _save(path, state, identity)
        on_round(server_round)
    return state


def ask_cohort(
    clients: Clients, request: Request, settings: TrainingSettings
) -> tuple[list[Reply], list[Refusal]]:
    """Returns answers and refusals to `request`.

    Raises:
      BudgetError: too few answered, because budgets refused.
      FederationError: fewer than `settings.min_cohort` answered.
    """
    replies, refusals = clients.ask(request, timeout_seconds=settings.round_timeout_seconds)
    if len(replies) >= settings.min_cohort:
        return replies, refusals
    over_budget = [refusal for refusal in refusals if refusal.kind == "BudgetError"]
    if over_budget:
        raise BudgetError(f"{over_budget[0].reason} ({len(over_budget)} clients refused.)")
    first = f"; {refusals[0].client} says: {refusals[0].reason}" if refusals else ""
    raise FederationError(
        f"Expected at least {settings.min_cohort} clients to answer {request.step}, found {len(replies)}{first}"
    )


def _advance(
    state: TrainingState, gradient: NDArray[np.float64], settings: TrainingSettings, record: RoundRecord
) -> TrainingState:
    velocity = settings.momentum * state.velocity + gradient
    weights = (state.weights - settings.learning_rate * velocity).astype(np.float32)
    averaging = record.server_round > settings.num_rounds * (1 - settings.average_last)
    return TrainingState(
        weights=weights,
        velocity=velocity,
        iterate_sum=state.iterate_sum + weights if averaging else state.iterate_sum,
        num_averaged=state.num_averaged + averaging,
        server_round=record.server_round,
        history=(*state.history, record),
    )


def _record(server_round: int, replies: Sequence[Reply], refusals: Sequence[Refusal]) -> RoundRecord:
    return RoundRecord(
        server_round=server_round,
        answered=tuple(reply.client for reply in replies),
        missing=tuple(refusal.client for refusal in refusals),
    )


def _save(path: Path, state: TrainingState, identity: str) -> None:
    history = [[record.server_round, record.answered, record.missing] for record in state.history]
    head = canonical_json(
        {
            "identity": identity,
            "server_round": state.server_round,
            "num_averaged": state.num_averaged,
            "history": history,
        }
    )
    arrays = {"weights": state.weights, "velocity": state.velocity, "iterate_sum": state.iterate_sum}
    write_atomically(path, lambda stream: np.savez(stream, head=np.array(head), **arrays))


def _load(path: Path, identity: str) -> TrainingState | None:
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as stored:
        head = json.loads(str(stored["head"]))
        if head["identity"] != identity:
            return None
        history = tuple(
            RoundRecord(server_round=number, answered=tuple(answered), missing=tuple(missing))
            for number, answered, missing in head["history"]
        )
        return TrainingState(
            weights=stored["weights"],
            velocity=stored["velocity"],
            iterate_sum=stored["iterate_sum"],
            num_averaged=head["num_averaged"],
            server_round=head["server_round"],
            history=history,
        )
