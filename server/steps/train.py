"""Train: rounds of federated DP-SGD."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from fedpipe.data import Transform
from fedpipe.federation.rounds import CHECKPOINT, TrainingState, run_rounds
from fedpipe.files import write_atomically
from fedpipe.ledger.certificate import Dropout
from fedpipe.learning import ModelDefinition
from server.artifacts import Model, Spans, Statistics
from server.steps.asking import Asker

WEIGHTS = "weights.npy"
SURE_DEVIATIONS = 2.0


def train(
    spans: Spans,
    statistics: Statistics,
    transform: Transform,
    *,
    directory: Path,
    asker: Asker,
    seed: int,
    on_round: Callable[[int, int], None],
) -> dict[str, Model]:
    """Returns the Model; its weights are a file in `directory`."""
    from fedpipe.learning.architectures import initial_weights

    terms = asker.terms
    schema, training = terms.data_schema, terms.training
    definition = ModelDefinition(
        settings=terms.model, num_features=transform.num_features, num_classes=schema.num_classes
    )
    sizes = statistics.train_sizes()
    state = run_rounds(
        asker.clients,
        run_id=asker.run_id,
        settings=training,
        initial=initial_weights(definition, seed),
        values={
            "transform": transform.model_dump(mode="json"),
            "local_step_sizes": _local_step_sizes(asker, statistics, sizes),
        },
        sizes=sizes,
        least_total=SURE_DEVIATIONS * statistics.total_noise_stddev(schema.num_classes),
        directory=directory,
        identity=f"{asker.run_id}/{terms.digest}",
        on_round=lambda done: on_round(done, training.num_rounds),
    )
    write_atomically(directory / WEIGHTS, lambda stream: np.save(stream, state.result))
    (directory / CHECKPOINT).unlink(missing_ok=True)
    model = Model(
        definition=definition,
        weights_file=WEIGHTS,
        num_rounds=training.num_rounds,
        dropouts=_dropouts(state),
        private=terms.plan.private,
    )
    return {"model": model}


def _local_step_sizes(asker: Asker, statistics: Statistics, sizes: dict[str, float]) -> dict[str, float]:
    """Returns what each client's local steps are divided by; nothing to say for a single step."""
    training = asker.terms.training
    if training.local_steps == 1:
        return {}
    least = SURE_DEVIATIONS * statistics.label_noise_stddev * asker.terms.data_schema.num_classes**0.5
    return {
        client: training.learning_rate / (training.sampling_probability * max(size, least, 1.0))
        for client, size in sizes.items()
    }


def _dropouts(state: TrainingState) -> tuple[Dropout, ...]:
    return tuple(
        Dropout(server_round=record.server_round, client=client)
        for record in state.history
        for client in record.missing
    )
