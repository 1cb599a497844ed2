"""What a run tells whoever watches it."""

from __future__ import annotations

from typing import Protocol

from fedpipe.pipeline.records import ExecutionState


class Progress(Protocol):
    """Follows a run step by step. The runner calls the first and the last method, a step the second."""

    def step_started(self, name: str, index: int, total: int) -> None:
        """Says that step `index` of `total`, counted from 1, has begun."""

    def step_progress(self, name: str, done: int, total: int) -> None:
        """Says that `done` of the `total` parts of the step, such as rounds, are finished."""

    def note(self, text: str) -> None:
        """Says something about the running step that a person should know now."""

    def step_finished(self, name: str, seconds: float, status: ExecutionState) -> None:
        """Says how the step ended; CACHED: its earlier outputs were loaded, nothing ran."""


class SilentProgress:
    """Shows nothing."""

    def step_started(self, name: str, index: int, total: int) -> None:
        """Does nothing."""

    def step_progress(self, name: str, done: int, total: int) -> None:
        """Does nothing."""

    def note(self, text: str) -> None:
        """Does nothing."""

    def step_finished(self, name: str, seconds: float, status: ExecutionState) -> None:
        """Does nothing."""
