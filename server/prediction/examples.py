"""tf.Example requests (classify and regress) and what their signatures return."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpipe.learning.tensorflow_runtime import tf
from server.prediction.errors import Code, ServingError, invalid, shorten
from server.prediction.json_tensors import cell_bytes
from server.prediction.signatures import CLASSIFY, Signature

CLASSES, SCORES, VALUES = "classes", "scores", "outputs"
_INT64 = range(-(2**63), 2**63)


def serialized_examples(input_: Any) -> NDArray[Any]:
    """Returns a request's tf.Examples, context merged in, as bytes: object (n,).

    Raises:
      ServingError: there is none.
    """
    if input_.HasField("example_list_with_context"):
        with_context = input_.example_list_with_context
        examples = [_merge(example, with_context.context) for example in with_context.examples]
    else:
        examples = list(input_.example_list.examples)
    if not examples:
        raise invalid("Input is empty: expected at least one example.")
    return _as_array(examples)


def examples_from_json(body: Mapping[str, Any]) -> NDArray[Any]:
    """Returns the `examples` of a REST request, `context` merged in, as bytes: object (n,).

    Raises:
      ServingError: they are not formatted so.
    """
    rows, context = body.get("examples"), body.get("context", {})
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise invalid("Expected 'examples' to be a list of objects, with at least one.")
    if not isinstance(context, dict):
        raise invalid("Expected 'context' to be an object.")
    for row in rows:
        if both := row.keys() & context.keys():
            raise invalid(
                f"Expected features either in 'context' or in 'examples', found {shorten(min(both))} in both."
            )
    return _as_array([_make_example({**row, **context}) for row in rows])


def input_name(signature: Signature) -> str:
    """Returns the one input of a signature that takes serialized examples."""
    names = [name for name, spec in signature.inputs.items() if spec.is_string]
    if len(signature.inputs) != 1 or len(names) != 1:
        raise ServingError(
            Code.FAILED_PRECONDITION, f"Expected signature {signature.name} to take one string tensor."
        )
    return names[0]


def output_names(signature: Signature) -> tuple[str, ...]:
    """Returns the outputs to ask a classify or regress signature for."""
    wanted = (CLASSES, SCORES) if signature.method_name == CLASSIFY else (VALUES,)
    names = tuple(name for name in wanted if name in signature.outputs)
    if not names:
        raise ServingError(
            Code.FAILED_PRECONDITION,
            f"Expected signature {signature.name} to have an output among {', '.join(wanted)}.",
        )
    return names


def classifications(
    names: Sequence[str], arrays: Sequence[NDArray[Any]], num_examples: int
) -> list[list[tuple[bytes, float]]]:
    """Returns for each example its (label, score) pairs; an absent label is empty, an absent score 0."""
    found = dict(zip(names, arrays, strict=True))
    for name, array in found.items():
        if array.ndim != 2 or len(array) != num_examples:
            raise _unfit(f"Expected {name} of shape [{num_examples},?]")
    scores = found[SCORES] if SCORES in found else np.zeros(found[CLASSES].shape)
    labels = found[CLASSES] if CLASSES in found else np.full(scores.shape, b"", dtype=object)
    if labels.shape != scores.shape:
        raise _unfit("Expected as many classes as scores")
    return [list(zip(*row, strict=True)) for row in zip(labels.tolist(), scores.tolist(), strict=True)]


def regressions(arrays: Sequence[NDArray[Any]], num_examples: int) -> NDArray[Any]:
    """Returns one value per example: float (n,)."""
    values = arrays[0]
    if values.shape not in ((num_examples,), (num_examples, 1)):
        raise _unfit(f"Expected {VALUES} of shape [{num_examples}] or [{num_examples},1]")
    return values.reshape(num_examples)


def _unfit(expectation: str) -> ServingError:
    return ServingError(Code.FAILED_PRECONDITION, f"{expectation}, found another: the signature is unfit.")


def _as_array(examples: list[Any]) -> NDArray[Any]:
    cells = np.empty(len(examples), dtype=object)
    cells[:] = [example.SerializeToString() for example in examples]
    return cells


def _merge(example: Any, context: Any) -> Any:
    merged = tf.train.Example()
    merged.CopyFrom(context)
    for name, feature in example.features.feature.items():
        merged.features.feature[name].CopyFrom(feature)
    return merged


def _make_example(features: Mapping[str, Any]) -> Any:
    example = tf.train.Example()
    try:
        for name, value in features.items():
            _fill_feature(example.features.feature[name], value if isinstance(value, list) else [value], name)
    except UnicodeEncodeError as error:
        raise invalid("Expected names of features in UTF-8.") from error
    return example


def _fill_feature(feature: Any, values: list[Any], name: str) -> None:
    kinds = set(map(type, values))
    if kinds <= {str, dict}:
        feature.bytes_list.value.extend([cell_bytes(value, name) for value in values])
    elif kinds == {int} and all(value in _INT64 for value in values):
        feature.int64_list.value.extend(values)
    elif kinds <= {int, float}:
        feature.float_list.value.extend([_as_float(value) for value in values])
    else:
        raise invalid(f'Expected feature "{shorten(name)}" as a number, a string or a list of either.')


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.copysign(math.inf, value)
