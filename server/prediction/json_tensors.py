"""TensorFlow Serving's JSON form of tensors: rows (`instances`) and columns (`inputs`)."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
from collections.abc import Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from server.prediction.errors import Code, ServingError, invalid, shorten
from server.prediction.signatures import Signature, TensorSpec

BASE64 = "b64"
_PLAIN = (np.float32, np.float64)


def parse_body(data: bytes) -> dict[str, Any]:
    """Returns the JSON object of a request's body; NaN and Infinity are numbers.

    Raises:
      ServingError: it is no JSON object.
    """
    try:
        body = _load(data)
    except (ValueError, RecursionError) as error:
        where = f" at offset: {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise invalid(f"JSON Parse error: expected a JSON object{where}") from None
    if not isinstance(body, dict):
        raise invalid("JSON Value: expected an object.")
    return body


def _load(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return json.loads(data)  # slower, but takes NaN, Infinity and numbers of any size


def signature_name(body: Mapping[str, Any]) -> str:
    """Returns the `signature_name` of a request, empty for the default."""
    name = body.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid("'signature_name' key must be a string value.")
    return name


def arrays_from_json(signature: Signature, body: Mapping[str, Any]) -> list[NDArray[Any]]:
    """Returns the inputs of a predict request in the signature's order.

    Raises:
      ServingError: it is in neither form or in both, or does not fit the signature.
    """
    if ("instances" in body) == ("inputs" in body):
        raise invalid("Not formatted correctly: expected exactly one of the keys 'instances' and 'inputs'.")
    columns = _rows(signature, body["instances"]) if "instances" in body else _columns(signature, body)
    signature.check_names(columns.keys())
    return [array_from_json(spec, columns[name]) for name, spec in signature.inputs.items()]


def json_from_arrays(
    signature: Signature, names: Sequence[str], arrays: Sequence[NDArray[Any]], *, by_rows: bool
) -> str:
    """Returns the answer to a predict request.

    Raises:
      ServingError: rows were asked for, and the outputs do not have one row per instance alike.
    """
    if by_rows and len({array.shape[:1] for array in arrays} | {()}) != 2:
        raise invalid("Expected outputs of one batch size for 'instances': use 'inputs' instead.")
    key = "predictions" if by_rows else "outputs"
    if len(arrays) == 1 and arrays[0].ndim and arrays[0].dtype in _PLAIN and np.isfinite(arrays[0]).all():
        whole = np.ascontiguousarray(arrays[0])
        return orjson.dumps({key: whole}, option=orjson.OPT_SERIALIZE_NUMPY).decode()
    values = {
        name: _json_values(signature.outputs[name], array) for name, array in zip(names, arrays, strict=True)
    }
    if len(values) == 1:
        return dump({key: next(iter(values.values()))})
    if by_rows:
        return dump(
            {key: [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]}
        )
    return dump({key: values})


def dump(value: Any) -> str:
    """Returns JSON, with NaN and Infinity as TensorFlow Serving writes them."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def array_from_json(spec: TensorSpec, value: Any) -> NDArray[Any]:
    """Returns nested lists as an array of the input's type, checked against its shape."""
    shape, cells = _flatten(spec, value)
    spec.check_shape(shape)
    if spec.is_string:
        array = np.empty(len(cells), dtype=object)
        array[:] = _cells_bytes(cells, spec.name)
        return array.reshape(shape)
    return _numbers(spec, cells).reshape(shape)


def _cells_bytes(cells: list[Any], name: str) -> list[bytes]:
    # All cells at once are encoded four times as fast as one by one.
    with contextlib.suppress(TypeError, UnicodeEncodeError):
        found = "\0".join(cells).encode().split(b"\0")
        if len(found) == len(cells):
            return found
    return [cell_bytes(cell, name) for cell in cells]


def cell_bytes(cell: Any, name: str) -> bytes:
    """Returns a string cell: UTF-8 of a JSON string, or what `{"b64": ...}` holds."""
    try:
        if type(cell) is str:
            return cell.encode()
        if type(cell) is dict and cell.keys() == {BASE64} and isinstance(cell[BASE64], str):
            return base64.b64decode(cell[BASE64], validate=True)
    except UnicodeEncodeError:
        raise _unfit(name, "text that is Unicode") from None
    except (binascii.Error, ValueError):
        raise _unfit(name, "base64 under the key 'b64'") from None
    raise _unfit(name, "strings")


def as_shortest_doubles(array: NDArray[Any]) -> NDArray[np.float64]:
    """Returns doubles whose shortest decimals are also those of the array's own, narrower floats.

    >>> as_shortest_doubles(np.float32([0.1, 1.0])).tolist()
    [0.1, 1.0]
    """
    if array.dtype == np.float64:
        return array
    if array.dtype.kind == "V":  # bfloat16 and its like
        array = array.astype(np.float32)
    return array.astype("U32").astype(np.float64)


def _rows(signature: Signature, instances: Any) -> dict[str, Any]:
    if not isinstance(instances, list) or not instances:
        raise invalid("Expected 'instances' to be a list with at least one value.")
    first = instances[0]
    if not isinstance(first, dict) or first.keys() == {BASE64}:
        return {_only_input(signature): instances}
    try:
        if set(map(type, instances)) == {dict} and set(map(len, instances)) == {len(first)}:
            return {name: list(map(itemgetter(name), instances)) for name in first}
    except KeyError:
        pass  # a row has other names: which one is said below
    names = first.keys()
    number = next(n for n, row in enumerate(instances) if not isinstance(row, dict) or row.keys() != names)
    raise invalid(
        f"Failed to process element: {number} of 'instances' list. "
        "Expected an object with the same names as the first."
    )


def _columns(signature: Signature, body: Mapping[str, Any]) -> dict[str, Any]:
    inputs = body["inputs"]
    if isinstance(inputs, dict) and inputs.keys() != {BASE64}:
        return inputs
    return {_only_input(signature): inputs}


def _only_input(signature: Signature) -> str:
    if len(signature.inputs) != 1:
        raise invalid(
            f"Expected objects with the names of the inputs, since signature {signature.name} has "
            f"{len(signature.inputs)}."
        )
    return next(iter(signature.inputs))


def _flatten(spec: TensorSpec, value: Any) -> tuple[tuple[int, ...], list[Any]]:
    shape: list[int] = []
    level = [value]
    while level and type(level[0]) is list:
        size = len(level[0])
        if set(map(type, level)) != {list} or set(map(len, level)) != {size}:
            raise _unfit(spec.name, "lists of equal size at each depth")
        shape.append(size)
        level = list(chain.from_iterable(level))
    return tuple(shape), level


def _numbers(spec: TensorSpec, cells: list[Any]) -> NDArray[Any]:
    kind = spec.dtype.kind
    allowed: dict[str, set[type]] = {"b": {bool}, "i": {int}, "u": {int}}
    # bfloat16 and its like have a kind of their own.
    if kind not in "biufV" or not set(map(type, cells)) <= allowed.get(kind, {int, float}):
        raise _unfit(spec.name, f"values of type {spec.dtype.name}")
    if kind in "iu" and cells:
        limits = np.iinfo(spec.dtype)
        if min(cells) < limits.min or max(cells) > limits.max:
            raise _unfit(spec.name, f"numbers in the range of {spec.dtype.name}")
    try:
        with np.errstate(over="ignore"):
            return np.array(cells, np.float64 if kind not in "biu" else spec.dtype).astype(spec.dtype)
    except OverflowError:
        raise _unfit(spec.name, f"numbers in the range of {spec.dtype.name}") from None


def _unfit(name: str, expectation: str) -> ServingError:
    return invalid(f'Expected {expectation} for "{shorten(name)}", found something else.')


def _json_values(spec: TensorSpec, array: NDArray[Any]) -> Any:
    if spec.is_string:
        always = spec.name.endswith("_bytes")
        return _map_cells(array.tolist(), always) if array.ndim else _json_cell(array.item(), always)
    if spec.dtype.kind in "biu":
        return array.tolist()
    if spec.dtype.kind not in "fV":
        raise ServingError(
            Code.UNIMPLEMENTED, f'Expected no output "{spec.name}" of this type: JSON has none.'
        )
    return as_shortest_doubles(array).tolist()


def _map_cells(cells: list[Any], always: bool) -> list[Any]:
    return [_map_cells(cell, always) if type(cell) is list else _json_cell(cell, always) for cell in cells]


def _json_cell(cell: bytes, always: bool) -> Any:
    try:
        if not always:
            return cell.decode()
    except UnicodeDecodeError:
        pass  # JSON has no other way to say it
    return {BASE64: base64.b64encode(cell).decode("ascii")}
