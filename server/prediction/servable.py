"""One SavedModel in memory: a session of its own, as TensorFlow Serving runs it.

A session, unlike a restored Python object, gives every signature with its method name, never
retraces, and frees its memory when it is closed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from tensorflow.core.protobuf import config_pb2

from fedpipe.learning.tensorflow_runtime import tf
from server.prediction.errors import Code, ServingError
from server.prediction.signatures import Signature, read_signatures

Arrays = list[NDArray[Any]]

_WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
_MAX_WARMUP_RECORDS = 1000
# Handing each operation to a pool costs more than small models compute; batches run in parallel anyway.
_IN_CALLER = -1
_MAX_CALLABLES = 64  # output filters are chosen by clients
_CODES = {code.number: code for code in Code}


class Servable:
    """A loaded SavedModel. `run` may be called from several threads.

    Args:
      num_threads: within an operation.

    Raises:
      ServingError: it cannot be loaded.
    """

    def __init__(self, path: Path, *, num_threads: int) -> None:
        self._callables: dict[tuple[str, tuple[str, ...]], Callable[..., Arrays]] = {}
        config = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=num_threads, inter_op_parallelism_threads=_IN_CALLER
        )
        self._session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
        try:
            with self._session.graph.as_default():
                meta_graph = tf.compat.v1.saved_model.load(self._session, ["serve"], str(path))
            self.signatures = read_signatures(meta_graph.signature_def, self._is_placeholder)
        except (tf.errors.OpError, OSError, RuntimeError, ValueError, KeyError, DecodeError) as error:
            self.close()
            reason = " ".join(str(error).split())[:300]
            raise ServingError(
                Code.FAILED_PRECONDITION, f"Expected a whole SavedModel, found: {reason}."
            ) from error
        self.signature_defs = {name: meta_graph.signature_def[name] for name in self.signatures}

    def run(self, signature: Signature, inputs: Sequence[NDArray[Any]], outputs: tuple[str, ...]) -> Arrays:
        """Returns the named outputs for inputs in the signature's order.

        Raises:
          ServingError: TensorFlow refuses these inputs.
        """
        try:
            return self._callable(signature, outputs)(*inputs)
        except tf.errors.OpError as error:
            # TensorFlow quotes cells in its messages: they stay out of ours.
            code = _CODES.get(error.error_code, Code.INTERNAL)
            raise ServingError(code, _what_failed(code, error)) from None
        except (TypeError, ValueError, RuntimeError) as error:
            raise ServingError(Code.INTERNAL, f"The model failed ({type(error).__name__}).") from None

    def close(self) -> None:
        """Frees the model."""
        self._callables.clear()
        self._session.close()

    def warm_up(self, path: Path) -> None:
        """Runs the model's recorded warm-up requests and one made-up row per signature.

        A made-up row may be refused for what it holds; a model whose variables were not there is not served.

        Raises:
          ServingError: the model cannot answer.
        """
        from server.prediction.warmup import recorded_requests

        for signature, inputs, outputs in recorded_requests(
            path / _WARMUP_FILE, self.signatures, _MAX_WARMUP_RECORDS
        ):
            self.run(signature, inputs, outputs)
        for signature, inputs in self._made_up_requests():
            self._try_out(signature, inputs)

    def signature_json(self) -> dict[str, Any]:
        """Returns the signatures as JSON of TensorFlow's SignatureDef."""
        return {
            name: json_format.MessageToDict(
                signature, preserving_proto_field_name=True, including_default_value_fields=True
            )
            for name, signature in self.signature_defs.items()
        }

    def _is_placeholder(self, tensor: str) -> bool:
        # Sparse and composite inputs have no tensor of their own.
        return not tensor or self._session.graph.get_tensor_by_name(tensor).op.type == "Placeholder"

    def _callable(self, signature: Signature, outputs: tuple[str, ...]) -> Callable[..., Arrays]:
        key = (signature.name, outputs)
        found = self._callables.get(key)
        if found is None:
            if len(self._callables) >= _MAX_CALLABLES:
                self._callables.clear()
            options = config_pb2.CallableOptions(
                feed=[spec.tensor for spec in signature.inputs.values()],
                fetch=[signature.outputs[name].tensor for name in outputs],
            )
            # The public make_callable looks every tensor up again in each call: 0.2 ms for ten of them.
            found = self._callables[key] = self._session._make_callable_from_options(options)
        return found

    def _try_out(self, signature: Signature, inputs: Arrays) -> None:
        try:
            self.run(signature, inputs, tuple(signature.outputs))
        except ServingError as error:
            if error.code in (Code.FAILED_PRECONDITION, Code.NOT_FOUND):
                raise

    def _made_up_requests(self) -> Iterator[tuple[Signature, Arrays]]:
        for signature in self.signatures.values():
            if signature.is_dense:
                yield signature, [spec.empty_row() for spec in signature.inputs.values()]


def _what_failed(code: Code, error: Any) -> str:
    operation = getattr(error.op, "type", None) if error.op is not None else None
    where = f" in operation {operation}" if operation else ""
    return f"The model refused the input{where} ({code.name})."
