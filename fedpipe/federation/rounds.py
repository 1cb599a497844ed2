"""The round loop: ask, sum, step, checkpoint. It can be killed anywhere and goes on from the last round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedpipe.errors import FederationError
from fedpipe.federation.aggregation import Aggregate, Gradient, aggregate, read_updates
from fedpipe.federation.cohort import Clock, Cohort, ask_cohort, some_of
from fedpipe.federation.messages import Clients, Request, array_of
from fedpipe.federation.schedules import schedule_factor
from fedpipe.federation.strategies import Strategy, make_strategy
from fedpipe.federation.training_state import (
    CHECKPOINT,
    RoundRecord,
    TrainingState,
    load_state,
    save_state,
)
from fedpipe.learning import TrainingSettings
from fedpipe.learning.vectors import Vector


def _ignore(note: str) -> None:
    """Says nothing to anybody."""


@dataclass(frozen=True, kw_only=True)
class Listener:
    """Who is told how training goes: of rounds that are done, and of clients that leave and come back."""

    on_round: Callable[[int], None]
    on_note: Callable[[str], None] = _ignore


def run_rounds(
    clients: Clients,
    *,
    run_id: str,
    settings: TrainingSettings,
    initial: Vector,
    values: Mapping[str, Any],
    local_step_sizes: Mapping[str, float],
    sizes: Mapping[str, float],
    least_total: float,
    longest: Callable[[float], float] | None = None,
    directory: Path,
    identity: str,
    listener: Listener,
    clock: Clock | None = None,
) -> TrainingState:
    """Returns the state after all rounds, resuming from the checkpoint in `directory` if it is this run's.

    The aggregate of a round is the sum of the clients' noisy sums, divided by
    sampling_probability times the noisily counted size of those that answered; or what
    `settings.aggregation` says. A client whose size was never counted cannot be weighed and does not
    take part; one whose answer is no update of finite numbers is missing from that round.
    Everything done to the sums is post-processing.

    Args:
      clients: the data owners.
      run_id: the run that they agreed to.
      settings: public constants; the learning rate is a number here.
      initial: float32 (num_parameters,), where a new run starts.
      values: public values that every request carries.
      local_step_sizes: by client, of its own steps; every request carries them, scheduled.
      sizes: noisily counted training records of each client.
      least_total: a total below this is noise, and is raised to it.
      longest: the L2 norm of an honest sum, by a client's size; a longer one is shortened.
      directory: holds the checkpoint. It stays there: a run that is killed after its last round
        must not start over, since no client answers an old round again.
      identity: digest of the run's terms; a checkpoint of another is not used.
      listener: told of progress.
      clock: of the waits.

    Raises:
      BudgetError, FederationError: too few clients answered a round, or not all that the policy asks
        for, or the weights are finite no more.
      WorkspaceError: the checkpoint is damaged or of another fedpipe.
    """
    path, strategy = directory / CHECKPOINT, make_strategy(settings)
    start = TrainingState.start(initial, strategy)
    state = load_state(path, identity, start) or start
    listener.on_round(state.server_round)
    while state.server_round < settings.num_rounds:
        request = _request(state, run_id, settings, values, local_step_sizes)
        cohort = ask_cohort(
            clients,
            request,
            settings,
            among=sizes,
            check=lambda reply: array_of(reply, "sum", initial.shape),
            clock=clock,
        )
        joined = aggregate(
            read_updates(cohort.replies, sizes, initial.shape),
            settings,
            least_total=least_total,
            longest=longest,
        )
        record = _record(request.server_round, cohort, joined)
        _tell_changes(listener, state, record)
        state = _advance(state, joined.gradient, strategy, settings, record)
        save_state(path, state, identity)
        listener.on_round(state.server_round)
    return state


def _request(
    state: TrainingState,
    run_id: str,
    settings: TrainingSettings,
    values: Mapping[str, Any],
    local_step_sizes: Mapping[str, float],
) -> Request:
    server_round = state.server_round + 1
    factor = schedule_factor(settings, server_round)
    scheduled = {client: factor * size for client, size in local_step_sizes.items()}
    return Request(
        run_id=run_id,
        step="train",
        server_round=server_round,
        values={**values, "local_step_sizes": scheduled},
        arrays={"weights": state.weights},
    )


def _advance(
    state: TrainingState,
    gradient: Gradient,
    strategy: Strategy,
    settings: TrainingSettings,
    record: RoundRecord,
) -> TrainingState:
    server_round = record.server_round
    direction, moments = strategy.step(state.moments, gradient, server_round)
    step_size = float(settings.learning_rate) * schedule_factor(settings, server_round)
    with np.errstate(over="ignore"):
        weights = (state.weights - step_size * direction).astype(np.float32)
    if not np.isfinite(weights).all():
        raise FederationError(
            f"Expected finite weights after round {server_round}, found others: an update was far too large. "
            "Lower training.learning_rate, and see to the clients' data."
        )
    averaging = server_round > settings.num_rounds - round(settings.num_rounds * settings.average_last)
    return TrainingState(
        weights=weights,
        moments=moments,
        iterate_sum=state.iterate_sum + weights if averaging else state.iterate_sum,
        num_averaged=state.num_averaged + averaging,
        server_round=server_round,
        history=(*state.history, record),
    )


def _record(server_round: int, cohort: Cohort, joined: Aggregate) -> RoundRecord:
    return RoundRecord(
        server_round=server_round,
        answered=tuple(reply.client for reply in cohort.replies),
        missing={refusal.client: refusal.reason for refusal in cohort.refusals},
        retried=cohort.retried,
        set_aside=joined.set_aside,
        update_norm=float(np.linalg.norm(joined.gradient)),
    )


def _tell_changes(listener: Listener, state: TrainingState, record: RoundRecord) -> None:
    """Says who left and who came back, once: a client may stay away for many rounds."""
    before = state.history[-1].missing if state.history else {}
    left = sorted(set(record.missing) - set(before))
    back = sorted(set(before) - set(record.missing))
    if left:
        listener.on_note(
            f"Training goes on without {some_of(left)} from round {record.server_round}: "
            f"{record.missing[left[0]]}"
        )
    aside = sorted(set(record.set_aside) - set(state.history[-1].set_aside if state.history else ()))
    if aside:
        listener.on_note(
            f"In round {record.server_round}, updates were set aside or shortened: {some_of(aside)}. "
            f"{aside[0]}: {record.set_aside[aside[0]]}."
        )
    if back:
        listener.on_note(f"Back in round {record.server_round}: {some_of(back)}.")
