"""What the metadata store holds, as plain frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

RunStatus = Literal["RUNNING", "COMPLETE", "FAILED", "CANCELED"]
ExecutionState = Literal["RUNNING", "COMPLETE", "FAILED", "CANCELED", "CACHED"]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run of a pipeline. `epsilon` and `delta` are copies for display: the ledger decides."""

    run_id: str
    pipeline: str
    status: RunStatus
    created_at: str
    """ISO 8601, in UTC."""
    config_digest: str
    claim_id: str | None
    epsilon: float | None
    delta: float | None
    message: str
    """Why it failed; empty otherwise."""
    claim_closed: bool
    """Whether the run's claim was ended, so that nobody can go on with it."""


@dataclass(frozen=True, kw_only=True)
class ExecutionRecord:
    """One try of one step."""

    id: int
    run_id: str
    step: str
    state: ExecutionState
    fingerprint: str
    started_at: str
    """ISO 8601, in UTC."""
    duration_seconds: float | None
    """None while it runs, and for ever if its process died."""
    message: str
    """Why it failed; empty otherwise."""
    payloads: Mapping[str, str]
    """SHA-256 of each payload file that the step left, by its path within the step's directory."""
    parts: Mapping[str, str]
    """What the fingerprint is made of."""
    because: str
    """Why the step ran, or where it was loaded from."""


@dataclass(frozen=True, kw_only=True)
class ArtifactFile:
    """The JSON file of one artifact that a step has just written."""

    name: str
    type_name: str
    uri: str
    """The path relative to the workspace, with forward slashes."""
    digest: str
    """SHA-256 of the file."""


@dataclass(frozen=True, kw_only=True)
class ArtifactRecord(ArtifactFile):
    """An artifact as recorded, with the run and the step that made it."""

    id: int
    run_id: str
    step: str
