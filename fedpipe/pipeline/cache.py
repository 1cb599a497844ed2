"""What earlier tries of a step made: found by fingerprint, checked, and brought into the present run."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from fedpipe.files import make_private_directory, sync_directory
from fedpipe.pipeline.artifacts import Artifact, are_payloads_intact, artifact_path, read_artifact
from fedpipe.pipeline.fingerprint import Fingerprint
from fedpipe.pipeline.metadata import MetadataStore
from fedpipe.pipeline.records import ExecutionRecord
from fedpipe.pipeline.step import Step
from fedpipe.pipeline.workspace import Workspace

USABLE = ("COMPLETE", "CACHED")


@dataclass(frozen=True, kw_only=True)
class Hit:
    """An earlier execution that may stand for a step, and what it made."""

    execution: ExecutionRecord
    outputs: dict[str, Artifact]


@dataclass(frozen=True, kw_only=True)
class Cache:
    """The executions of a workspace. With `others=False` only those of the run itself stand for its steps."""

    workspace: Workspace
    metadata: MetadataStore
    run_id: str
    others: bool = True

    def find(self, step: Step, key: Fingerprint) -> tuple[Hit | None, bool]:
        """Returns the newest intact execution with this fingerprint, and whether any was found damaged."""
        damaged = False
        for execution in self._candidates(step, key):
            outputs = self._outputs(step, execution)
            if outputs is not None:
                return Hit(execution=execution, outputs=outputs), damaged
            damaged = True
        return None, damaged

    def adopt(self, step: Step, hit: Hit) -> None:
        """Makes the files of an execution of another run part of this one, by links where possible."""
        target = self.workspace.make_step_dir(self.run_id, step.name)
        source = self.workspace.step_dir(hit.execution.run_id, step.name)
        names = [artifact_path(source, name).name for name in step.outputs]
        for name in (*names, *hit.execution.payloads):
            _link(source / name, target / name)
        sync_directory(target)

    def why(self, step: Step, key: Fingerprint, *, damaged: bool) -> str:
        """Returns in words why the step runs."""
        if damaged:
            return "files that it had made are missing or changed"
        if not step.cacheable:
            return "it always runs"
        pipeline = self.metadata.run(self.run_id).pipeline
        for earlier in self.metadata.executions_of_step(step.name):
            if earlier.parts and self.metadata.run(earlier.run_id).pipeline == pipeline:
                if earlier.run_id == self.run_id and earlier.fingerprint == key.digest:
                    return "its last try did not end well"
                return key.changes_since(earlier.parts)
        return "it never ran before"

    def _candidates(self, step: Step, key: Fingerprint) -> list[ExecutionRecord]:
        found = self.metadata.executions_of_step(step.name, fingerprint=key.digest)
        usable = [each for each in found if each.state in USABLE]
        return [each for each in usable if self.others or each.run_id == self.run_id]

    def _outputs(self, step: Step, execution: ExecutionRecord) -> dict[str, Artifact] | None:
        records = {record.name: record for record in self.metadata.outputs_of(execution.id)}
        declared = {name: kind.__name__ for name, kind in step.outputs.items()}
        directory = self.workspace.step_dir(execution.run_id, execution.step)
        if {name: record.type_name for name, record in records.items()} != declared:
            return None
        if not are_payloads_intact(directory, execution.payloads):
            return None
        values: dict[str, BaseModel] = {}
        for name, kind in step.outputs.items():
            value = read_artifact(artifact_path(directory, name), kind, records[name].digest)
            if value is None:
                return None
            values[name] = value
        if step.still_holds is not None and not step.still_holds(values):
            return None
        return {
            name: Artifact(value=value, record=records[name], payloads=execution.payloads)
            for name, value in values.items()
        }


def _link(source: Path, target: Path) -> None:
    make_private_directory(target.parent)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
        target.chmod(0o600)
        with target.open("rb") as stream:
            os.fsync(stream.fileno())
