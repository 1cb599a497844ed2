"""What a SavedModel can be asked: its signatures, as plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpipe.learning.tensorflow_runtime import tf
from server.prediction.errors import Code, ServingError, invalid, shorten

DEFAULT_SIGNATURE = "serving_default"
PREDICT = "tensorflow/serving/predict"
CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"

# Signatures that TensorFlow adds for itself: initialisers and the like.
_INTERNAL_PREFIX = "__saved_model"
DT_STRING = int(tf.string.as_datatype_enum)
_OPAQUE = (tf.variant.as_datatype_enum, tf.resource.as_datatype_enum)


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One named input or output.

    Attributes:
      tensor: its name in the graph; empty if it is not one dense tensor.
      dtype: NumPy's type; object for strings, which are bytes.
      data_type: the number of TensorFlow's DataType.
      shape: None for a size that varies; None as a whole for an unknown rank.
      is_strict: whether requests must have that shape. Where a signature begins behind a placeholder, as
        those that parse examples do, TensorFlow takes what its operations take.
      known_shapes: of earlier inputs, by their encoded TensorShapeProto; all fit `shape`.
    """

    name: str
    tensor: str
    dtype: np.dtype[Any]
    data_type: int
    shape: tuple[int | None, ...] | None
    is_strict: bool = True
    known_shapes: dict[bytes, tuple[tuple[int, ...], int]] = field(
        default_factory=dict, compare=False, repr=False
    )

    @property
    def is_string(self) -> bool:
        """Whether its cells are bytes."""
        return self.data_type == DT_STRING

    def empty_row(self) -> NDArray[Any]:
        """Returns the smallest value that fits: zeros, or strings without a character."""
        shape = tuple(1 if size is None else size for size in self.shape or ())
        if self.is_string:
            return np.full(shape, b"", dtype=object)
        return np.zeros(shape, self.dtype)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises ServingError unless `shape` fits."""
        if self.shape is None or not self.is_strict:
            return
        if len(shape) == len(self.shape) and all(
            size is None or size == found for size, found in zip(self.shape, shape, strict=True)
        ):
            return
        expected = ",".join("?" if size is None else str(size) for size in self.shape)
        found = ",".join(map(str, shape))
        raise invalid(f'Expected input "{self.name}" of shape [{expected}], found [{found}].')


@dataclass(frozen=True, kw_only=True)
class Signature:
    """A function of a SavedModel. `batchable` if requests may be joined along the first dimension."""

    name: str
    method_name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    batchable: bool
    is_dense: bool

    def check_dense(self) -> None:
        """Raises ServingError if an input or output is sparse, ragged or opaque."""
        if not self.is_dense:
            raise ServingError(
                Code.UNIMPLEMENTED, f"Expected dense tensors only, found others in signature {self.name}."
            )

    def check_names(self, sent: Any) -> None:
        """Raises ServingError unless exactly this signature's inputs were sent."""
        if sent == self.inputs.keys():
            return
        extra = ",".join(sorted(shorten(name) for name in set(sent) - set(self.inputs)))
        missing = ",".join(sorted(set(self.inputs) - set(sent)))
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(self.inputs)}. "
            f"Sent extra: {{{shorten(extra)}}}. Missing but required: {{{missing}}}."
        )


def read_signatures(
    signature_defs: Mapping[str, Any], is_placeholder: Callable[[str], bool]
) -> dict[str, Signature]:
    """Returns the signatures that clients may call, by name.

    Args:
      signature_defs: of a SavedModel.
      is_placeholder: of the name of a tensor in its graph.
    """
    return {
        name: _read_signature(name, signature, is_placeholder)
        for name, signature in sorted(signature_defs.items())
        if not name.startswith(_INTERNAL_PREFIX)
    }


def find_signature(signatures: Mapping[str, Signature], name: str, *, method_name: str = "") -> Signature:
    """Returns the signature of this name.

    Without a name it is the default one or, where that does not do `method_name`, the only one that does.

    Raises:
      ServingError: there is none, or it is for another method.
    """
    found = signatures.get(name or DEFAULT_SIGNATURE)
    if not method_name and found:
        return found
    if not name and (found is None or found.method_name != method_name):
        able = [signature for signature in signatures.values() if signature.method_name == method_name]
        found = able[0] if len(able) == 1 else found
    if found is None:
        raise invalid(
            f'Serving signature name: "{shorten(name or DEFAULT_SIGNATURE)}" not found in signature def'
        )
    if method_name and found.method_name != method_name:
        raise invalid(
            f"Expected signature method_name to be {method_name}. Was: {found.method_name}. "
            "Name a signature of that method as signature_name."
        )
    return found


def _read_signature(name: str, signature: Any, is_placeholder: Callable[[str], bool]) -> Signature:
    inputs = {
        alias: _read_spec(alias, info, is_strict=is_placeholder(info.name))
        for alias, info in sorted(signature.inputs.items())
    }
    outputs = {alias: _read_spec(alias, info) for alias, info in sorted(signature.outputs.items())}
    return Signature(
        name=name,
        method_name=signature.method_name,
        inputs=inputs,
        outputs=outputs,
        is_dense=all(map(_is_dense, [*inputs.values(), *outputs.values()])),
        batchable=bool(inputs) and all(map(_varies_in_rows, [*inputs.values(), *outputs.values()])),
    )


def _is_dense(spec: TensorSpec) -> bool:
    return bool(spec.tensor) and spec.data_type not in _OPAQUE


def _varies_in_rows(spec: TensorSpec) -> bool:
    return _is_dense(spec) and spec.shape is not None and len(spec.shape) > 0 and spec.shape[0] is None


def _read_spec(name: str, info: Any, *, is_strict: bool = True) -> TensorSpec:
    shape = None
    if not info.tensor_shape.unknown_rank:
        shape = tuple(dim.size if dim.size >= 0 else None for dim in info.tensor_shape.dim)
    dtype = tf.dtypes.as_dtype(info.dtype) if info.dtype else tf.variant
    return TensorSpec(
        name=name,
        tensor=info.name,  # empty for sparse and composite tensors
        dtype=np.dtype(dtype.as_numpy_dtype if dtype not in (tf.variant, tf.resource) else object),
        data_type=info.dtype,
        shape=shape,
        is_strict=is_strict,
    )
