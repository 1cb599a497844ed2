"""A registered version for encrypted prediction: its dense part, and the card that describes it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpipe.encrypted.card import FIXED_POINT
from fedpipe.encrypted.dense import Builder, DensePart
from fedpipe.encrypted.ranges import bound_logits
from fedpipe.encrypted.transform import read_transform
from fedpipe.errors import ConfigError, WorkspaceError
from fedpipe.files import digest_json
from fedpipe.learning.architectures import build_model
from fedpipe.learning.definition import ModelDefinition
from fedpipe.learning.tensorflow_runtime import tf
from server.artifacts import ModelVersion

_REVEALS = (
    "This description is public. Its transform tells the columns, declared ranges, noisy means and "
    "deviations, vocabularies and kept hash buckets that a client needs to encode a row: declared public "
    "values, or releases that were charged. limits.max_output bounds the weights by a power of two. Every "
    "answer tells something about the weights; enough answers tell all of them."
)


def export_dense(version: ModelVersion, directory: Path) -> DensePart:
    """Returns what is computed on shares, from the version's deployed SavedModel.

    Embeddings and one-hot inputs need no layer of their own: clients share the encoded row, which holds
    the one-hot inputs, so a party sees neither the category nor the weights it chooses.

    Raises:
      ConfigError: a model of this type cannot be computed on shares.
      WorkspaceError: the SavedModel is missing or is another model's.
      EncryptedError: some row could make a product overflow.
    """
    _check_type(version.definition)
    part = dense_part(version.definition, _load_weights(version.definition, directory))
    _largest_logit(version, part)
    return part


def dense_part(definition: ModelDefinition, model: Any) -> DensePart:
    """Returns the layers of a Keras model of that definition.

    Raises:
      ConfigError: a model of this type cannot be computed on shares.
    """
    _check_type(definition)
    builder = Builder()
    if definition.settings.type == "wide_and_deep":
        _add_wide_and_deep(builder, model, definition)
    else:
        _add_chain(builder, model.layers, 0)
    return builder.build(definition.num_features)


def describe_version(version: ModelVersion, part: DensePart) -> dict[str, Any]:
    """Returns the model's members of the model card, as JSON; the service adds its own."""
    lower, upper = _input_bounds(version)
    largest = float(np.maximum(np.abs(lower), np.abs(upper)).max())
    return {
        "model": version.name,
        "version": version.version,
        "certificate": digest_json(version.certificate.model_dump(mode="json")),
        "privacy": version.privacy.status,
        "transform": version.transform.model_dump(mode="json"),
        "columns": [
            {"name": name, "aliases": list(column.aliases), "optional": column.optional}
            for name, column in version.data_schema.columns.items()
            if name in version.transform.columns
        ],
        "input_width": part.input_width,
        "num_outputs": part.num_outputs,
        "activation": "sigmoid" if part.num_outputs == 1 else "softmax",
        "class_names": list(version.class_names),
        "fixed_point": dict(FIXED_POINT),
        "limits": {
            "max_magnitude": largest,
            "max_output": _largest_logit(version, part),
        },
        "reveals": _REVEALS,
    }


def _check_type(definition: ModelDefinition) -> None:
    if definition.settings.type == "custom":
        raise ConfigError(
            "Expected model.type logistic_regression, mlp, wide_and_deep or cnn, found custom: "
            "its layers are not known to work on shares."
        )


def _largest_logit(version: ModelVersion, part: DensePart) -> float:
    return bound_logits(part, *_input_bounds(version))


def _input_bounds(version: ModelVersion) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return read_transform(version.transform.model_dump(mode="json")).rounded_bounds()


def _load_weights(definition: ModelDefinition, directory: Path) -> Any:
    """Returns a Keras model with the weights of the SavedModel's `model`."""
    model = build_model(definition)
    checkpoint = tf.train.Checkpoint(model=model)
    try:
        status = checkpoint.read(str(directory / "variables" / "variables"))
        status.assert_existing_objects_matched().expect_partial()
    except (tf.errors.OpError, AssertionError, ValueError) as error:
        raise WorkspaceError(
            f"Expected the version's SavedModel at {directory}, found none or another's: deploy it again."
        ) from error
    return model


def _add_chain(builder: Builder, layers: Iterable[Any], value: int) -> int:
    for layer in layers:
        value = _add_layer(builder, layer, value)
    return value


def _add_wide_and_deep(builder: Builder, model: Any, definition: ModelDefinition) -> None:
    dense = [layer for layer in model.layers if isinstance(layer, tf.keras.layers.Dense)]
    hidden = [layer for layer in dense if layer.activation is tf.keras.activations.relu]
    linear = [layer for layer in dense if layer not in hidden]
    deep = next(layer for layer in linear if hidden and layer.input is hidden[-1].output)
    (wide,) = (layer for layer in linear if layer is not deep)
    table, text = (_ranges(definition, kind) for kind in ("tabular", "text"))
    split = bool(table and text)
    wide_inputs = builder.add("columns", 0, ranges=table) if split else 0
    deep_inputs = builder.add("columns", 0, ranges=text) if split else 0
    wide_logits = _add_layer(builder, wide, wide_inputs)
    builder.add("add", wide_logits, _add_chain(builder, [*hidden, deep], deep_inputs))


def _ranges(definition: ModelDefinition, kind: str) -> list[list[int]]:
    ends = np.cumsum([0, *(group.width for group in definition.groups)]).tolist()
    return [
        [start, stop]
        for group, start, stop in zip(definition.groups, ends, ends[1:], strict=False)
        if group.kind == kind
    ]


def _add_layer(builder: Builder, layer: Any, value: int) -> int:
    layers = tf.keras.layers
    match layer:
        case layers.InputLayer():
            return value
        case layers.Reshape() | layers.Flatten():
            return builder.add("reshape", value, shape=list(layer.output_shape[1:]))
        case layers.MaxPooling2D():
            return builder.add(
                "max_pool2d",
                value,
                size=list(layer.pool_size),
                strides=list(layer.strides),
                padding=layer.padding.upper(),
            )
        case layers.Conv2D():
            kernel, bias = layer.get_weights()
            settings = {"strides": list(layer.strides), "padding": layer.padding.upper()}
            value = builder.add("conv2d", value, weights=[kernel, bias[None, None, None]], **settings)
        case layers.Dense():
            kernel, bias = layer.get_weights()
            value = builder.add("dense", value, weights=[kernel, bias[None]])
        case _:
            raise ConfigError(f"Expected layers that work on shares, found a {type(layer).__name__}.")
    return _add_activation(builder, layer.activation, value)


def _add_activation(builder: Builder, activation: Any, value: int) -> int:
    match activation.__name__:
        case "linear":
            return value
        case "relu":
            return builder.add("relu", value)
        case "tanh":
            return builder.add_tanh(value)
    raise ConfigError(f"Expected relu or tanh, found the activation {activation.__name__}.")
