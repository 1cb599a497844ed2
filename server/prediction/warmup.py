"""Warm-up requests that a SavedModel brings along, in TensorFlow Serving's format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from tensorflow_serving.apis import prediction_log_pb2

from fedpipe.learning.tensorflow_runtime import tf
from server.prediction.examples import serialized_examples
from server.prediction.signatures import CLASSIFY, REGRESS, Signature, find_signature
from server.prediction.tensors import arrays_from_protos


def recorded_requests(
    path: Path, signatures: Mapping[str, Signature], limit: int
) -> Iterator[tuple[Signature, list[NDArray[Any]], tuple[str, ...]]]:
    """Yields signature, inputs and outputs of up to `limit` recorded requests; none without a file."""
    if not path.is_file():
        return
    for record in islice(tf.data.TFRecordDataset(str(path)).as_numpy_iterator(), limit):
        log = prediction_log_pb2.PredictionLog.FromString(record)
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
