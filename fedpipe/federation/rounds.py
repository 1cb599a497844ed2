"""The round loop: ask, sum, step, checkpoint. It can be killed anywhere and goes on from the last round."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpipe.errors import BudgetError, FederationError, WorkspaceError
from fedpipe.federation.messages import Clients, Refusal, Reply, Request, sum_arrays
from fedpipe.files import canonical_json, write_atomically
from fedpipe.learning import TrainingSettings
from fedpipe.learning.vectors import Vector

CHECKPOINT = "checkpoint.npz"


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """What a round really had: who answered, who did not. Names are for the operator's eyes.

    `update_norm` is the L2 norm of the mean gradient that the noisy sums gave: a function of releases.
    """

    server_round: int
    answered: tuple[str, ...]
    missing: tuple[str, ...]
    update_norm: float = 0.0


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
    sampling_probability times the noisily counted size of those that answered. A client whose
    size was never counted cannot be weighed and counts as missing. Everything done to the
    aggregate is post-processing.

    Args:
      clients: the data owners.
      run_id: the run that they agreed to.
      settings: public constants; the learning rate is a number here.
      initial: float32 (num_parameters,), where a new run starts.
      values: public values that every request carries.
      sizes: noisily counted training records of each client.
      least_total: a total below this is noise, and is raised to it.
      directory: holds the checkpoint. It stays there: a run that is killed after its last round
        must not start over, since no client answers an old round again.
      identity: digest of the run's terms; a checkpoint of another is not used.
      on_round: told how many rounds are done.

    Raises:
      FederationError: fewer clients than `settings.min_cohort` answered a round, or one answered
        something that is no update.
      WorkspaceError: the checkpoint is damaged.
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
        replies, missing = ask_cohort(clients, request, settings, among=sizes)
        total = max(sum(sizes[reply.client] for reply in replies), least_total, 1.0)
        aggregate = sum_arrays(replies, "sum", state.weights.shape).astype(np.float64)
        gradient = aggregate / (settings.sampling_probability * total)
        state = _advance(state, gradient, settings, _record(server_round, replies, missing, gradient))
        _save(path, state, identity)
        on_round(server_round)
    return state


def ask_cohort(
    clients: Clients,
    request: Request,
    settings: TrainingSettings,
    *,
    among: Collection[str] | None = None,
) -> tuple[list[Reply], list[Refusal]]:
    """Returns answers and refusals to `request`; with `among`, answers of all others count as refusals.

    Raises:
      BudgetError: too few answered, because budgets refused.
      FederationError: fewer than `settings.min_cohort` answered.
    """
    replies, refusals = clients.ask(request, timeout_seconds=settings.round_timeout_seconds)
    if among is not None:
        others = [reply.client for reply in replies if reply.client not in among]
        replies = [reply for reply in replies if reply.client in among]
        refusals = [*refusals, *(Refusal(client=name, reason="it missed an earlier step") for name in others)]
    if len(replies) >= settings.min_cohort:
        return replies, refusals
    over_budget = [refusal for refusal in refusals if refusal.kind == "BudgetError"]
    if over_budget:
        shortfalls = [shortfall for refusal in over_budget for shortfall in refusal.shortfalls]
        raise BudgetError(f"{over_budget[0].reason} ({len(over_budget)} clients refused.)", shortfalls)
    first = f" {refusals[0].client} says: {refusals[0].reason}" if refusals else ""
    raise FederationError(
        f"Expected training.min_cohort={settings.min_cohort} clients or more to answer {request.step}, "
        f"found {len(replies)}.{first}"
    )


def _advance(
    state: TrainingState, gradient: NDArray[np.float64], settings: TrainingSettings, record: RoundRecord
) -> TrainingState:
    velocity = settings.momentum * state.velocity + gradient
    weights = (state.weights - float(settings.learning_rate) * velocity).astype(np.float32)
    averaging = record.server_round > settings.num_rounds - round(settings.num_rounds * settings.average_last)
    return TrainingState(
        weights=weights,
        velocity=velocity,
        iterate_sum=state.iterate_sum + weights if averaging else state.iterate_sum,
        num_averaged=state.num_averaged + averaging,
        server_round=record.server_round,
        history=(*state.history, record),
    )


def _record(
    server_round: int, replies: Sequence[Reply], refusals: Sequence[Refusal], gradient: NDArray[np.float64]
) -> RoundRecord:
    return RoundRecord(
        server_round=server_round,
        answered=tuple(reply.client for reply in replies),
        missing=tuple(refusal.client for refusal in refusals),
        update_norm=float(np.linalg.norm(gradient)),
    )


def _save(path: Path, state: TrainingState, identity: str) -> None:
    history = [[each.server_round, each.answered, each.missing, each.update_norm] for each in state.history]
    head = canonical_json(
        {
            "identity": identity,
            "server_round": state.server_round,
            "num_averaged": state.num_averaged,
            "history": history,
        }
    )
    content = {
        "head": np.array(head),
        "weights": state.weights,
        "velocity": state.velocity,
        "iterate_sum": state.iterate_sum,
    }
    write_atomically(path, lambda stream: np.savez(stream, **content))


def _load(path: Path, identity: str) -> TrainingState | None:
    """Returns the state in `path`, or None if there is none of this run.

    Raises:
      WorkspaceError: the file is damaged. To start over instead would not help: the clients have
        counted the rounds that it holds, and answer none of them again.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            head = json.loads(str(stored["head"]))
            return _state(head, stored) if head["identity"] == identity else None
    except Exception as error:  # zip, json and numpy raise many kinds for a damaged file
        raise WorkspaceError(
            f"Expected a readable checkpoint at {path}, found it damaged: restore it, or start a new run."
        ) from error


def _state(head: Mapping[str, Any], arrays: Mapping[str, Any]) -> TrainingState:
    history = tuple(
        RoundRecord(server_round=number, answered=tuple(answered), missing=tuple(missing), update_norm=norm)
        for number, answered, missing, norm in head["history"]
    )
    return TrainingState(
        weights=arrays["weights"],
        velocity=arrays["velocity"],
        iterate_sum=arrays["iterate_sum"],
        num_averaged=head["num_averaged"],
        server_round=head["server_round"],
        history=history,
    )
