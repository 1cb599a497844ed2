"""ML Metadata's messages: the types that we register, and how they read as records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ml_metadata import proto
from ml_metadata.proto.metadata_store_pb2 import DOUBLE, STRING  # type: ignore[attr-defined]  # no stubs

from fedpipe.files import canonical_json
from fedpipe.pipeline.records import ArtifactFile, ArtifactRecord, ExecutionRecord, RunRecord

PIPELINE_TYPE = "pipeline"
RUN_TYPE = "run"

_RUN_PROPERTIES = {
    "pipeline": STRING,
    "status": STRING,
    "created_at": STRING,
    "config_digest": STRING,
    "claim_id": STRING,
    "message": STRING,
    "claim_closed": STRING,
}
_EXECUTION_PROPERTIES = {
    "run_id": STRING,
    "fingerprint": STRING,
    "started_at": STRING,
    "duration_seconds": DOUBLE,
    "message": STRING,
    "payloads": STRING,
    "parts": STRING,
    "because": STRING,
}
_ARTIFACT_PROPERTIES = {"name": STRING, "digest": STRING, "run_id": STRING, "step": STRING}


def pipeline_type() -> proto.ContextType:
    """Returns the type of the context that joins all runs of one pipeline."""
    return proto.ContextType(name=PIPELINE_TYPE)


def run_type() -> proto.ContextType:
    """Returns the type of the context that joins what one run did and made."""
    return proto.ContextType(name=RUN_TYPE, properties=_RUN_PROPERTIES)


def execution_type(step: str) -> proto.ExecutionType:
    """Returns the type of the tries of `step`."""
    return proto.ExecutionType(name=step, properties=_EXECUTION_PROPERTIES)


def artifact_type(type_name: str) -> proto.ArtifactType:
    """Returns the type of the artifacts whose pydantic class is called `type_name`."""
    return proto.ArtifactType(name=type_name, properties=_ARTIFACT_PROPERTIES)


def set_values(target: Any, values: Mapping[str, str | float | None]) -> None:
    """Writes `values` into a message's (custom) properties; None leaves what is there."""
    for name, value in values.items():
        if isinstance(value, str):
            target[name].string_value = value
        elif value is not None:
            target[name].double_value = value


def new_artifact(file: ArtifactFile, *, type_id: int, run_id: str, step: str) -> proto.Artifact:
    """Returns the message that records `file` as a live artifact."""
    artifact = proto.Artifact(type_id=type_id, uri=file.uri, state=proto.Artifact.LIVE)
    values = {"name": file.name, "digest": file.digest, "run_id": run_id, "step": step}
    set_values(artifact.properties, values)
    return artifact


def event(kind: int, name: str, *, artifact_id: int | None = None) -> proto.Event:
    """Returns the event that an execution took or made the artifact called `name`."""
    path = proto.Event.Path(steps=[proto.Event.Path.Step(key=name)])
    return proto.Event(type=kind, path=path, artifact_id=artifact_id)


def mapping_text(values: Mapping[str, str]) -> str:
    """Returns the property that holds a mapping."""
    return canonical_json(dict(values))


def run_record(context: Any) -> RunRecord:
    """Returns what the context of a run says."""
    text = _texts(context)
    extra = {name: float(value.string_value) for name, value in context.custom_properties.items()}
    return RunRecord(
        run_id=context.name,
        pipeline=text["pipeline"],
        status=text["status"],  # type: ignore[arg-type]  # only update_run writes it, and it is typed
        created_at=text["created_at"],
        config_digest=text["config_digest"],
        claim_id=text.get("claim_id"),
        epsilon=extra.get("epsilon"),
        delta=extra.get("delta"),
        message=text.get("message", ""),
        claim_closed=text.get("claim_closed") == "yes",
    )


def execution_record(execution: Any) -> ExecutionRecord:
    """Returns what the execution of a step says."""
    text = _texts(execution)
    timed = "duration_seconds" in execution.properties
    return ExecutionRecord(
        id=execution.id,
        run_id=text["run_id"],
        step=execution.type,
        state=proto.Execution.State.Name(execution.last_known_state),
        fingerprint=text["fingerprint"],
        started_at=text["started_at"],
        duration_seconds=execution.properties["duration_seconds"].double_value if timed else None,
        message=text.get("message", ""),
        payloads=json.loads(text.get("payloads", "{}")),
        parts=json.loads(text.get("parts", "{}")),
        because=text.get("because", ""),
    )


def artifact_record(artifact: Any) -> ArtifactRecord:
    """Returns what a recorded artifact says."""
    text = _texts(artifact)
    return ArtifactRecord(
        id=artifact.id,
        name=text["name"],
        type_name=artifact.type,
        uri=artifact.uri,
        digest=text["digest"],
        run_id=text["run_id"],
        step=text["step"],
    )


def _texts(message: Any) -> dict[str, str]:
    return {name: value.string_value for name, value in message.properties.items()}
