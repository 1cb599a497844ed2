"""The files of a step: one small JSON file per artifact, and the payloads beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from fedpipe.errors import PipelineError
from fedpipe.files import digest_json, sha256, write_text
from fedpipe.pipeline.records import ArtifactRecord
from fedpipe.pipeline.step import Step

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """An artifact in memory, with its record and the payloads of the step that made it."""

    value: BaseModel
    record: ArtifactRecord
    payloads: Mapping[str, str]

    @property
    def content_digest(self) -> str:
        """Digest of the file and the payloads: other weights are another artifact, whatever the JSON says."""
        return digest_json([self.record.digest, dict(self.payloads)])


def artifact_path(directory: Path, name: str) -> Path:
    """Returns the JSON file of the artifact `name` in a step's directory."""
    return directory / f"{name}.json"


def check_outputs(step: Step, returned: object) -> dict[str, BaseModel]:
    """Returns what the step's function returned, if it is exactly what the step declares.

    Raises:
        PipelineError: a missing, an extra or a wrongly typed output.
    """
    if not isinstance(returned, Mapping):
        raise PipelineError(_mismatch(step, f"a {type(returned).__name__} instead of a mapping"))
    if set(returned) != set(step.outputs):
        raise PipelineError(_mismatch(step, ", ".join(sorted(map(str, returned))) or "none"))
    for name, declared in step.outputs.items():
        # A subclass would be recorded under another type and lose its fields when it is loaded again.
        if type(returned[name]) is not declared:
            raise PipelineError(_mismatch(step, f"{name} of type {type(returned[name]).__name__}"))
    return {name: returned[name] for name in step.outputs}


def _mismatch(step: Step, found: str) -> str:
    declared = ", ".join(f"{name} ({kind.__name__})" for name, kind in step.outputs.items()) or "none"
    return f"Expected step {step.name} to return the outputs {declared}, found {found}. Correct its function."


def write_artifact(path: Path, value: BaseModel) -> tuple[BaseModel, str]:
    """Makes `path` hold `value` as JSON; returns what a resumed run would load, and the SHA-256 of the file.

    Raises:
        PipelineError: the JSON does not read back as the same type, as with a NaN.
    """
    text = value.model_dump_json(indent=2) + "\n"
    try:
        loaded = type(value).model_validate_json(text)
    except ValidationError as error:
        places = ", ".join(
            ".".join(map(str, problem["loc"])) for problem in error.errors(include_input=False)
        )
        raise PipelineError(
            f"Expected {type(value).__name__} to read back from its JSON, found it cannot at: {places}. "
            f"Use types and values that JSON holds."
        ) from error
    write_text(path, text)
    return loaded, sha256(text.encode())


def read_artifact(path: Path, kind: type[BaseModel], digest: str) -> BaseModel | None:
    """Returns the artifact in `path`, or None if the file is missing, changed or of another shape."""
    try:
        data = path.read_bytes()
        return kind.model_validate_json(data) if sha256(data) == digest else None
    except (OSError, ValidationError):
        return None


def digest_payloads(
    directory: Path, outputs: Collection[str], scratch: Collection[str] = ()
) -> dict[str, str]:
    """Returns the SHA-256 of every file in `directory`, by relative path.

    Left out are the JSON of `outputs`, and the files of `scratch`.
    """
    taken = {artifact_path(directory, name) for name in outputs} | {directory / name for name in scratch}
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path not in taken)
    return {path.relative_to(directory).as_posix(): _file_digest(path) for path in files}


def are_payloads_intact(directory: Path, payloads: Mapping[str, str]) -> bool:
    """Whether every recorded payload is there, unchanged; files that came later do not matter."""
    try:
        return all(_file_digest(directory / name) == digest for name, digest in payloads.items())
    except OSError:
        return False


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
