"""Train: rounds of federated DP-SGD."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fedpipe.data import Transform
from fedpipe.data.balance import Balance
from fedpipe.federation.rounds import Listener, run_rounds
from fedpipe.federation.training_state import TrainingState
from fedpipe.files import write_atomically
from fedpipe.learning import ModelDefinition
from fedpipe.learning.vectors import Vector
from fedpipe.ledger.certificate import Dropout
from fedpipe.privacy import DpSgd, PrivacyPlan
from server.artifacts import Model, RoundFigures, Spans, Statistics
from server.steps.asking import Asker
from server.steps.noise import noise_advice, noise_to_signal, round_noise
from server.steps.step_sizes import choose_step_sizes, strategy_note

WEIGHTS = "weights.npy"
SURE_DEVIATIONS = 2.0
SURELY_COUNTED = 6.0


def train(
    spans: Spans,
    statistics: Statistics,
    transform: Transform,
    balance: Balance,
    *,
    directory: Path,
    asker: Asker,
    seed: int,
    on_round: Callable[[int, int], None],
    on_note: Callable[[str], None],
) -> dict[str, Model]:
    """Returns the Model; its weights are a file in `directory`."""
    from fedpipe.learning.architectures import initial_weights

    terms = asker.terms
    definition = ModelDefinition.make(terms.model, transform, terms.data_schema.num_classes)
    initial = initial_weights(definition, seed)
    ratio = noise_to_signal(terms.plan, statistics.train_sizes(balance), initial.size)
    advice = noise_advice(ratio, terms.plan, initial.size)
    for note in (advice, strategy_note(terms.training)):
        if note:
            on_note(note)
    num_rounds = terms.training.num_rounds
    listener = Listener(on_round=lambda done: on_round(done, num_rounds), on_note=on_note)
    state = _run(asker, statistics, transform, balance, initial, directory, listener)
    write_atomically(directory / WEIGHTS, lambda stream: np.save(stream, state.result))
    model = Model(
        definition=definition,
        weights_file=WEIGHTS,
        num_rounds=num_rounds,
        dropouts=_dropouts(state, spans),
        private=terms.plan.private,
        rounds=tuple(_round_figures(state, asker, statistics, balance, initial.size)),
        noise_to_signal=ratio,
        noise_advice=advice,
    )
    return {"model": model}


def _run(
    asker: Asker,
    statistics: Statistics,
    transform: Transform,
    balance: Balance,
    initial: Vector,
    directory: Path,
    listener: Listener,
) -> TrainingState:
    terms, sizes = asker.terms, statistics.train_sizes(balance)
    training = terms.training
    size_noise = _size_noise(asker, statistics, balance)
    steps = choose_step_sizes(training, terms.plan, sizes, least_size=SURE_DEVIATIONS * size_noise)
    return run_rounds(
        asker.clients,
        run_id=asker.run_id,
        settings=training.model_copy(update={"learning_rate": steps.server}),
        initial=initial,
        values={
            "transform": transform.model_dump(mode="json"),
            "proximal_mus": steps.proximal_mus,
            **_balance_values(balance),
        },
        local_step_sizes=steps.local,
        sizes=sizes,
        least_total=_least_total(size_noise, len(sizes)),
        longest=_longest(terms.plan, size_noise, initial.size),
        directory=directory,
        identity=f"{asker.run_id}/{terms.digest}",
        listener=listener,
    )


def _longest(plan: PrivacyPlan, size_noise: float, num_parameters: int) -> Callable[[float], float] | None:
    """Returns how long an honest client's sum may be, by its counted size; None without clipping."""
    query = plan.queries.get("training")
    if query is None or not isinstance(query.mechanism, DpSgd):
        return None
    mechanism = query.mechanism
    return lambda size: mechanism.longest_release(
        max(size, 0.0) + SURELY_COUNTED * size_noise, num_parameters
    )


def _balance_values(balance: Balance) -> dict[str, Any]:
    return {} if balance.answer == "none" else {"balance": balance.model_dump(mode="json")}


def _size_noise(asker: Asker, statistics: Statistics, balance: Balance) -> float:
    return statistics.size_noise_stddev(asker.terms.data_schema.num_classes, balance)


def _least_total(size_noise: float, num_clients: int) -> float:
    return SURE_DEVIATIONS * size_noise * math.sqrt(num_clients)


def _round_figures(
    state: TrainingState, asker: Asker, statistics: Statistics, balance: Balance, num_parameters: int
) -> Iterator[RoundFigures]:
    sizes = statistics.train_sizes(balance)
    least = _least_total(_size_noise(asker, statistics, balance), len(sizes))
    for record in state.history:
        total = max(sum(sizes[client] for client in record.answered), least, 1.0)
        yield RoundFigures(
            server_round=record.server_round,
            num_answered=len(record.answered),
            set_aside=dict(record.set_aside),
            update_norm=record.update_norm,
            noise_norm=round_noise(asker.terms.plan, total, len(record.answered), num_parameters),
        )


def _dropouts(state: TrainingState, spans: Spans) -> tuple[Dropout, ...]:
    """Returns who takes part and was missing in which round."""
    return tuple(
        Dropout(server_round=record.server_round, client=client)
        for record in state.history
        for client in spans.clients
        if client not in record.answered
    )
