"""Warm-up requests that a SavedModel brings along, in TensorFlow Serving's format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from tensorflow_serving.apis import prediction_log_pb2

from fedpipe.learning.tensorflow_runtime import tf
from server.prediction.errors import Code, ServingError
from server.prediction.examples import serialized_examples
from server.prediction.signatures import CLASSIFY, REGRESS, Signature, find_signature
from server.prediction.tensors import arrays_from_protos


def recorded_requests(
    path: Path, signatures: Mapping[str, Signature], limit: int
) -> Iterator[tuple[Signature, list[NDArray[Any]], tuple[str, ...]]]:
    """Yields signature, inputs and outputs of up to `limit` recorded requests; none without a file.

    Raises:
      ServingError: a record cannot be read, or the model has no such signature.
    """
    for log in _read_logs(path, limit) if path.is_file() else ():
        kind = log.WhichOneof("log_type")
        if kind == "predict_log":
            request = log.predict_log.request
            signature = find_signature(signatures, request.model_spec.signature_name)
            outputs = tuple(request.output_filter) or tuple(signature.outputs)
            yield signature, arrays_from_protos(signature, request.inputs), outputs
        elif kind in ("classify_log", "regress_log"):
            request = getattr(log, kind).request
            method = CLASSIFY if kind == "classify_log" else REGRESS
            signature = find_signature(signatures, request.model_spec.signature_name, method_name=method)
            yield signature, [serialized_examples(request.input)], tuple(signature.outputs)


def _read_logs(path: Path, limit: int) -> Iterator[Any]:
    records = islice(tf.data.TFRecordDataset(str(path)).as_numpy_iterator(), limit)
    try:
        for record in records:
            yield prediction_log_pb2.PredictionLog.FromString(record)
    except (tf.errors.OpError, DecodeError) as error:
        raise ServingError(
            Code.FAILED_PRECONDITION,
            f"Expected records of PredictionLog in {path.name}, found something else.",
        ) from error
