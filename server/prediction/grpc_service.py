"""PredictionService and ModelService of `tensorflow-serving-api`, and gRPC's health service."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

from server.prediction import examples
from server.prediction.access import KeyRing
from server.prediction.errors import Code, ServingError, invalid, shorten
from server.prediction.reload import Reload
from server.prediction.service import PredictionService
from server.prediction.signatures import CLASSIFY, REGRESS, Signature, find_signature
from server.prediction.tensors import arrays_from_protos, fill_proto
from server.prediction.versions import LoadedVersion, Query

logger = logging.getLogger("fedpipe.serve")

_SIGNATURE_DEF = "signature_def"
_Method = Callable[[Any, Any, Any], Awaitable[Any]]


def _answer(method: _Method) -> _Method:
    """Checks the caller's key, and turns our errors into gRPC's."""

    @functools.wraps(method)
    async def answer(self: Any, request: Any, context: Any) -> Any:
        try:
            check_key(self.keys, context)
            return await method(self, request, context)
        except ServingError as error:
            code, message = error.code, str(error)
        except Exception:
            logger.exception("A gRPC request failed.")
            code, message = Code.INTERNAL, "The server failed."
        return await context.abort(grpc.StatusCode[code.name], message)

    return answer


def check_key(keys: KeyRing | None, context: Any) -> None:
    """Raises ServingError unless the call brings a key, where keys are asked for."""
    if keys is not None:
        metadata = context.invocation_metadata() or ()
        keys.check({name: value for name, value in metadata if isinstance(value, str)})


class PredictionServicer:
    """Implements tensorflow.serving.PredictionService."""

    def __init__(self, service: PredictionService) -> None:
        self._service = service
        self.keys = service.keys

    @_answer
    async def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802  gRPC's names
        """Runs a signature on tensors."""
        with self._service.answering(make_query(request.model_spec), "predict", "grpc") as loaded:
            signature = find_signature(loaded.servable.signatures, request.model_spec.signature_name)
            names = _wanted(signature, request.output_filter)
            inputs = arrays_from_protos(signature, request.inputs)
            arrays = await self._service.predict(
                loaded, signature, inputs, names, timeout_seconds=context.time_remaining()
            )
            response = predict_pb2.PredictResponse()
            _fill_spec(response.model_spec, loaded, signature.name, context)
            for name, array in zip(names, arrays, strict=True):
                fill_proto(response.outputs[name], signature.outputs[name], array)
            return response

    @_answer
    async def Classify(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Runs a classify signature on tf.Examples."""
        with self._service.answering(make_query(request.model_spec), "classify", "grpc") as loaded:
            response = classification_pb2.ClassificationResponse()
            name = await self._infer(loaded, request, CLASSIFY, response.result, context)
            _fill_spec(response.model_spec, loaded, name, context)
            return response

    @_answer
    async def Regress(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Runs a regress signature on tf.Examples."""
        with self._service.answering(make_query(request.model_spec), "regress", "grpc") as loaded:
            response = regression_pb2.RegressionResponse()
            name = await self._infer(loaded, request, REGRESS, response.result, context)
            _fill_spec(response.model_spec, loaded, name, context)
            return response

    @_answer
    async def MultiInference(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Runs several signatures of one model on the same tf.Examples."""
        if not request.tasks:
            raise invalid("Inference request holds no tasks.")
        queries = {make_query(task.model_spec) for task in request.tasks}
        signatures = {task.model_spec.signature_name for task in request.tasks}
        if len(queries) != 1:
            raise invalid("All ModelSpecs in a MultiInferenceRequest must access the same model version.")
        if len(signatures) != len(request.tasks):
            raise invalid("Duplicate evaluation of a signature.")
        response = inference_pb2.MultiInferenceResponse()
        with self._service.answering(queries.pop(), "multi_inference", "grpc") as loaded:
            for task in request.tasks:
                await self._run_task(loaded, task, request, response.results.add(), context)
        return response

    @_answer
    async def GetModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Returns a version's signatures."""
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != _SIGNATURE_DEF:
                raise invalid(f"Metadata field {shorten(field)} is not supported")
        with self._service.answering(make_query(request.model_spec), "metadata", "grpc") as loaded:
            signatures = get_model_metadata_pb2.SignatureDefMap()
            for name, signature in loaded.servable.signature_defs.items():
                signatures.signature_def[name].CopyFrom(signature)
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            response.metadata[_SIGNATURE_DEF].Pack(signatures)
            _fill_spec(response.model_spec, loaded, "", context)
            return response

    async def _run_task(
        self, loaded: LoadedVersion, task: Any, request: Any, result: Any, context: Any
    ) -> None:
        results = {CLASSIFY: "classification_result", REGRESS: "regression_result"}
        if task.method_name not in results:
            raise ServingError(
                Code.UNIMPLEMENTED, f"Unsupported signature method_name: {shorten(task.method_name)}"
            )
        target = getattr(result, results[task.method_name])
        target.SetInParent()
        asked = inference_pb2.InferenceTask(model_spec=task.model_spec)
        name = await self._infer(loaded, request, task.method_name, target, context, spec=asked.model_spec)
        _fill_spec(result.model_spec, loaded, name, context)

    async def _infer(
        self,
        loaded: LoadedVersion,
        request: Any,
        method_name: str,
        target: Any,
        context: Any,
        *,
        spec: Any = None,
    ) -> str:
        cells = examples.serialized_examples(request.input)
        signature, names, arrays = await self._service.infer(
            loaded,
            (spec or request.model_spec).signature_name,
            method_name,
            cells,
            timeout_seconds=context.time_remaining(),
        )
        if method_name == REGRESS:
            for value in examples.regressions(arrays, len(cells)).tolist():
                target.regressions.add(value=value)
            return signature.name
        for pairs in examples.classifications(names, arrays, len(cells)):
            classes = target.classifications.add().classes
            for label, score in pairs:
                classes.add(label=label.decode("utf-8", "replace"), score=score)
        return signature.name


class ModelServicer:
    """Implements tensorflow.serving.ModelService."""

    def __init__(self, service: PredictionService, reload: Reload) -> None:
        self._service = service
        self._reload = reload
        self.keys = service.keys

    @_answer
    async def GetModelStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Returns the state of a model's versions."""
        if not request.model_spec.name:
            raise invalid("Missing ModelSpec name")
        return status_proto(self._service, make_query(request.model_spec))

    @_answer
    async def HandleReloadConfigRequest(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Serves another set of models, all from below the directories that the server was started with."""
        response = model_management_pb2.ReloadConfigResponse()
        await self._reload.apply(request.config)
        response.status.error_code = Code.OK.number
        return response


def status_proto(service: PredictionService, query: Query) -> Any:
    """Returns the GetModelStatusResponse for a query."""
    response = get_model_status_pb2.GetModelStatusResponse()
    for status in service.models.statuses(query):
        found = response.model_version_status.add(version=status.version, state=status.state.value)
        found.status.error_code = status.code.number
        found.status.error_message = status.error
    return response


def make_query(spec: Any) -> Query:
    """Returns what a ModelSpec asks for."""
    kind = spec.WhichOneof("version_choice")
    return Query(
        name=spec.name,
        version=spec.version.value if kind == "version" else None,
        label=spec.version_label if kind == "version_label" else None,
    )


def _wanted(signature: Signature, output_filter: Any) -> tuple[str, ...]:
    if not output_filter:
        return tuple(signature.outputs)
    names = tuple(output_filter)
    for name in names:
        if name not in signature.outputs:
            known = ",".join(signature.outputs)
            raise invalid(
                f"output tensor alias not found in signature: {shorten(name)} "
                f"Outputs expected to be in the set {{{known}}}."
            )
    if len(set(names)) != len(names):
        raise invalid("duplicate output tensor alias in output_filter")
    return names


def _fill_spec(spec: Any, loaded: LoadedVersion, signature_name: str, context: Any) -> None:
    spec.name = loaded.name
    spec.version.value = loaded.version
    spec.signature_name = signature_name
    if loaded.headers:
        context.set_trailing_metadata(loaded.headers)
