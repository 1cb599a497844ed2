"""TensorProto to NumPy and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorflow.core.framework import tensor_shape_pb2

from fedpipe.learning.tensorflow_runtime import tf
from server.prediction.errors import Code, ServingError, invalid
from server.prediction.signatures import DT_STRING, Signature, TensorSpec

_MAX_ELEMENTS = 1 << 28
_SHORT_BYTES, _MAX_KNOWN = 64, 64

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
    encoded = proto.tensor_shape.SerializeToString()
    shape, count = spec.known_shapes.get(encoded) or _read_shape(spec, encoded)
    if proto.dtype == DT_STRING:
        values = proto.string_val[:]
        cells = np.empty(shape, dtype=object)
        if count == 1 == len(values):
            cells.fill(values[0])
        else:
            _fill(cells.reshape(-1), values, spec)
        return cells
    if proto.tensor_content:
        if len(proto.tensor_content) != count * spec.dtype.itemsize:
            raise invalid(f'Expected {count} values for input "{spec.name}", found another number of bytes.')
        return np.frombuffer(proto.tensor_content, spec.dtype).reshape(shape)
    return _from_fields(spec, proto, shape, count)


def _read_shape(spec: TensorSpec, encoded: bytes) -> tuple[tuple[int, ...], int]:
    """Returns the sizes that a TensorShapeProto holds, checked against `spec`, and the number of cells."""
    proto = tensor_shape_pb2.TensorShapeProto.FromString(encoded)
    shape = tuple([dim.size for dim in proto.dim])
    spec.check_shape(shape)
    count = math.prod(shape)
    if proto.unknown_rank or min(shape, default=0) < 0 or count > _MAX_ELEMENTS:
        raise invalid(f'Expected input "{spec.name}" with a full shape of bounded size.')
    # Requests name the same few shapes again and again, and reading one takes longer than its cell.
    if len(encoded) <= _SHORT_BYTES and len(spec.known_shapes) < _MAX_KNOWN:
        spec.known_shapes[encoded] = shape, count
    return shape, count


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


def _type_name(data_type: int) -> str:
    try:
        return str(tf.dtypes.as_dtype(data_type).name)
    except TypeError:
        return "unknown"
