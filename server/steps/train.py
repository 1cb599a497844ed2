"""Train: rounds of federated DP-SGD."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from fedpipe.data import Transform
from fedpipe.federation.rounds import TrainingState, run_rounds
from fedpipe.files import write_atomically
from fedpipe.learning import ModelDefinition, TrainingSettings
from fedpipe.learning.vectors import Vector
from fedpipe.ledger.certificate import Dropout
from fedpipe.privacy import DpSgd, PrivacyPlan
from server.artifacts import Model, RoundFigures, Spans, Statistics
from server.steps.asking import Asker
from server.steps.noise import noise_advice, noise_to_signal, round_noise

WEIGHTS = "weights.npy"
SURE_DEVIATIONS = 2.0
NOISE_DRIFT = 0.4
MAX_LEARNING_RATE = 4.0


def train(
    spans: Spans,
    statistics: Statistics,
    transform: Transform,
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
    ratio = noise_to_signal(terms.plan, statistics.train_sizes(), initial.size)
    advice = noise_advice(ratio, terms.plan, initial.size)
    if advice:
        on_note(advice)
    state = _run(asker, statistics, transform, initial, directory, on_round)
    write_atomically(directory / WEIGHTS, lambda stream: np.save(stream, state.result))
    model = Model(
        definition=definition,
        weights_file=WEIGHTS,
        num_rounds=terms.training.num_rounds,
        dropouts=_dropouts(state, spans),
        private=terms.plan.private,
        rounds=tuple(_round_figures(state, asker, statistics, initial.size)),
        noise_to_signal=ratio,
        noise_advice=advice,
    )
    return {"model": model}


def _run(
    asker: Asker,
    statistics: Statistics,
    transform: Transform,
    initial: Vector,
    directory: Path,
    on_round: Callable[[int, int], None],
) -> TrainingState:
    terms, sizes = asker.terms, statistics.train_sizes()
    learning_rate = choose_learning_rate(terms.training, terms.plan, sizes)
    return run_rounds(
        asker.clients,
        run_id=asker.run_id,
        settings=terms.training.model_copy(update={"learning_rate": learning_rate}),
        initial=initial,
        values={
            "transform": transform.model_dump(mode="json"),
            "local_step_sizes": _local_step_sizes(asker, statistics, sizes, learning_rate),
        },
        sizes=sizes,
        least_total=_least_total(asker, statistics),
        directory=directory,
        identity=f"{asker.run_id}/{terms.digest}",
        on_round=lambda done: on_round(done, terms.training.num_rounds),
    )


def choose_learning_rate(training: TrainingSettings, plan: PrivacyPlan, sizes: dict[str, float]) -> float:
    """Returns the configured step size, or the largest at which noise cannot carry the weights away.

    Over T steps of size r, noise of standard deviation s in the mean gradient moves each weight by
    about r s sqrt(T); `auto` holds that at NOISE_DRIFT. All of it is known: the plan is public, the
    sizes are released counts.
    """
    if training.learning_rate != "auto":
        return training.learning_rate
    query = plan.queries.get("training")
    if query is None or not isinstance(query.mechanism, DpSgd):
        return MAX_LEARNING_RATE
    mechanism = query.mechanism
    stddev = mechanism.noise_multiplier * mechanism.clipping_norm * math.sqrt(len(sizes))
    batch = mechanism.sampling_probability * max(sum(sizes.values()), 1.0)
    num_steps = mechanism.num_rounds * mechanism.local_steps
    drift_free = NOISE_DRIFT * batch / (stddev * math.sqrt(num_steps))
    return min(MAX_LEARNING_RATE, drift_free) * (1 - training.momentum)


def _local_step_sizes(
    asker: Asker, statistics: Statistics, sizes: dict[str, float], learning_rate: float
) -> dict[str, float]:
    """Returns what each client's local steps are divided by; nothing to say for a single step."""
    training = asker.terms.training
    if training.local_steps == 1:
        return {}
    least = SURE_DEVIATIONS * statistics.label_noise_stddev * asker.terms.data_schema.num_classes**0.5
    return {
        client: learning_rate / (training.sampling_probability * max(size, least, 1.0))
        for client, size in sizes.items()
    }


def _least_total(asker: Asker, statistics: Statistics) -> float:
    return SURE_DEVIATIONS * statistics.total_noise_stddev(asker.terms.data_schema.num_classes)


def _round_figures(
    state: TrainingState, asker: Asker, statistics: Statistics, num_parameters: int
) -> Iterator[RoundFigures]:
    sizes, least = statistics.train_sizes(), _least_total(asker, statistics)
    for record in state.history:
        total = max(sum(sizes[client] for client in record.answered), least, 1.0)
        yield RoundFigures(
            server_round=record.server_round,
            num_answered=len(record.answered),
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
