"""What a model takes of memory in training, estimated from public settings before anything of it is built.

No number of records enters: a refusal that depended on it would tell of it. So batches are worked on in
parts of `ROWS` records at most, and that is what counts.
"""

from __future__ import annotations

import math
from itertools import pairwise

from fedpipe.learning.chunk_sizes import CHUNK, ROWS
from fedpipe.learning.definition import ModelDefinition, TrainingSettings

# Vectors of the model's size, beside one of noise for each local step: weights of kernel and scoring, the
# sum, what a step makes on its way, request, answer and what the ledger keeps; measured with 25 million.
VECTORS = 13
STATES = {"sgd": 0, "momentum": 4, "adam": 6}  # a step has the old and the new state
ROW_COPIES = 3  # of an example's activations: values, deltas, and what makes them
GRADIENTS = 3  # of each example or unit in a chunk, where sums are not made from activations alone
LAYER_BYTES = 1 << 20  # of graph and Python objects
FLOAT_BYTES = 4


def training_bytes(
    definition: ModelDefinition,
    training: TrainingSettings,
    *,
    local_steps: int,
    max_records: int = 1,
    num_weights: int = 0,
) -> int:
    """Returns about how many bytes a round takes at a client, and no less; scoring takes less.

    Args:
      definition: with the inputs that are known; more of them take more.
      training: for the kernel and the local optimizer.
      local_steps: of a round, each with noise of its own.
      max_records: records of a user that are clipped together.
      num_weights: that came along. Only they tell the size of a custom model, whose activations are not
        counted.
    """
    layers = _layers(definition)
    num_parameters = max(num_weights, sum(parameters for parameters, _ in layers))
    vectors = VECTORS + STATES[training.local_optimizer] + local_steps
    of_each = training.kernel == "tensorflow_privacy" or definition.settings.type in ("cnn", "custom")
    if of_each or max_records > 1:
        vectors += GRADIENTS * CHUNK
    rows = max(ROWS, CHUNK * max_records)
    row = 2 * definition.num_features + ROW_COPIES * sum(outputs for _, outputs in layers)
    return FLOAT_BYTES * (num_parameters * vectors + rows * row) + LAYER_BYTES * len(layers)


def _layers(definition: ModelDefinition) -> list[tuple[int, int]]:
    """Returns the parameters and the outputs of each layer; none of a custom model."""
    match definition.settings.type:
        case "logistic_regression":
            return _dense([definition.num_features, definition.num_logits])
        case "mlp":
            return _hidden(definition, definition.num_features)
        case "wide_and_deep":
            table, text = (_width(definition, kind) for kind in ("tabular", "text"))
            if not table or not text:
                table = text = definition.num_features
            return _dense([table, definition.num_logits]) + _hidden(definition, text)
        case "cnn":
            return _convolutions(definition)
        case _:
            return []


def _dense(widths: list[int]) -> list[tuple[int, int]]:
    return [((before + 1) * after, after) for before, after in pairwise(widths)]


def _hidden(definition: ModelDefinition, num_inputs: int) -> list[tuple[int, int]]:
    return _dense([num_inputs, *definition.settings.hidden_units, definition.num_logits])


def _width(definition: ModelDefinition, kind: str) -> int:
    return sum(group.width for group in definition.groups if group.kind == kind)


def _convolutions(definition: ModelDefinition) -> list[tuple[int, int]]:
    """Layers of `architectures._cnn`; pictures that are not known yet, or not fit for it, have none."""
    shapes = [group.shape for group in definition.groups if group.kind == "image"]
    if not shapes or min(shapes[0][:2]) < 3:
        return []
    height, width, channels = shapes[0]
    first, second = (8, 4) if min(height, width) >= 20 else (3, 3)
    halved = [math.ceil(size / 2) for size in (height, width)]
    pooled = [size - 1 for size in halved]
    last = [math.ceil(size / 2) for size in pooled]
    return [
        (first**2 * channels * 16 + 16, 16 * math.prod(halved)),
        (second**2 * 16 * 32 + 32, 32 * math.prod(last)),
        *_dense([32 * math.prod(last), 32, definition.num_logits]),
    ]
