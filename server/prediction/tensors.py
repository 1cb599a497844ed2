"""TensorProto to NumPy and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorflow.core.framework import tensor_pb2

from fedpipe.learning.tensorflow_runtime import tf
from server.prediction.errors import Code, ServingError, invalid
from server.prediction.signatures import Signature, TensorSpec

_MAX_ELEMENTS = 1 << 28

# Types whose values a proto holds in a field of plain numbers; others travel as bytes.
_VALUE_FIELDS = {
    tf.float32: "float_val",
    tf.float64: "double_val",
    tf.int8: "int_val",
    tf.int16: "int_val",
    tf.int32: "int_val",
    tf.uint8: "int_val",
    tf.uint16: "int_val",
    tf.int64: "int64_val",
    tf.bool: "bool_val",
    tf.uint32: "uint32_val",
    tf.uint64: "uint64_val",
}
_FIELD_OF_TYPE = {dtype.as_datatype_enum: field for dtype, field in _VALUE_FIELDS.items()}


def arrays_from_protos(signature: Signature, protos: Mapping[str, Any]) -> list[NDArray[Any]]:
    """Returns the inputs in the signature's order.

    Raises:
      ServingError: a name, a type or a shape does not fit.
    """
    signature.check_names(set(protos))
    return [array_from_proto(spec, protos[name]) for name, spec in signature.inputs.items()]


def array_from_proto(spec: TensorSpec, proto: Any) -> NDArray[Any]:
    """Returns a tensor's values, checked against `spec`."""
    if proto.dtype != spec.data_type:
        raise invalid(
            f'Expected input "{spec.name}" of type {_type_name(spec.data_type)}, '
            f"found {_type_name(proto.dtype)}."
        )
    shape = tuple([dim.size for dim in proto.tensor_shape.dim])
    spec.check_shape(shape)
    count = math.prod(shape)
    if proto.tensor_shape.unknown_rank or (shape and min(shape) < 0) or count > _MAX_ELEMENTS:
        raise invalid(f'Expected input "{spec.name}" with a full shape of bounded size.')
    if spec.is_string:
        cells = np.empty(count, dtype=object)
        _fill(cells, list(proto.string_val), spec)
        return cells.reshape(shape)
    if proto.tensor_content:
        if len(proto.tensor_content) != count * spec.dtype.itemsize:
            raise invalid(f'Expected {count} values for input "{spec.name}", found another number of bytes.')
        return np.frombuffer(proto.tensor_content, spec.dtype).reshape(shape)
    return _from_fields(spec, proto, shape, count)


def _from_fields(spec: TensorSpec, proto: Any, shape: tuple[int, ...], count: int) -> NDArray[Any]:
    field = _FIELD_OF_TYPE.get(spec.data_type)
    try:
        if field is None:
            array: NDArray[Any] = tf.make_ndarray(proto)
            return array
        values = np.empty(count, spec.dtype)
        _fill(values, np.array(getattr(proto, field)).astype(spec.dtype), spec)
        return values.reshape(shape)
    except (TypeError, ValueError) as error:
        raise invalid(f'Expected values that fill the shape of input "{spec.name}".') from error


def _fill(target: NDArray[Any], values: Any, spec: TensorSpec) -> None:
    """Copies values; as TensorFlow has it, the last one repeats until the tensor is full."""
    found = len(values)
    if found == len(target):
        target[:] = values
        return
    if not found or found > len(target):
        raise invalid(f'Expected {len(target)} values for input "{spec.name}", found {found}.')
    target[:found] = values
    target[found:] = values[-1]


def fill_proto(proto: Any, spec: TensorSpec, array: NDArray[Any]) -> None:
    """Writes an output into an empty TensorProto, in the value fields that clients read."""
    proto.dtype = spec.data_type
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if spec.is_string:
        proto.string_val.extend(array.ravel().tolist())
        return
    field = _FIELD_OF_TYPE.get(spec.data_type)
    if field is not None:
        getattr(proto, field).extend(array.ravel().tolist())
        return
    try:
        proto.CopyFrom(tf.make_tensor_proto(array, dtype=spec.data_type))
    except (TypeError, ValueError) as error:
        raise ServingError(Code.UNIMPLEMENTED, f'Expected no output "{spec.name}" of this type.') from error


def make_proto(spec: TensorSpec, array: NDArray[Any]) -> Any:
    """Returns an output as a TensorProto."""
    proto = tensor_pb2.TensorProto()
    fill_proto(proto, spec, array)
    return proto


def _type_name(data_type: int) -> str:
    try:
        return str(tf.dtypes.as_dtype(data_type).name)
    except TypeError:
        return "unknown"
