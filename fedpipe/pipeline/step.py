"""One step of a pipeline: a plain function with the names of what it takes and makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel


@dataclass(frozen=True, kw_only=True)
class Step:
    """A plain function of named inputs and outputs.

    The runner calls `function(directory=..., **inputs)`. `directory` belongs to this step of
    this run: large payloads (weights, a SavedModel, checkpoints) go there, the returned
    artifacts are small. It may still hold what an earlier, failed try left behind, which is
    how a step resumes from its own checkpoint. The names `<output>.json` in it are taken.

    Whatever changes the result must stand in `settings`, in an input, or in the code that the
    function's module reaches by imports: arguments bound with `functools.partial` are not part
    of the fingerprint, so bind there only what leaves the result as it is (a progress bar, a
    grid) or what `settings` repeats.
    """

    name: str
    function: Callable[..., Mapping[str, BaseModel]]
    inputs: tuple[str, ...]
    """Names of artifacts that earlier steps make."""
    outputs: Mapping[str, type[BaseModel]]
    """Name to type of each artifact; the class's name is its type in ML Metadata."""
    settings: Mapping[str, Any]
    """The part of the configuration that this step depends on, as JSON can hold it."""
    scratch: tuple[str, ...] = ()
    """Names of files in `directory` that serve to resume the step, and that nobody misses once it is done."""
    cacheable: bool = True
    """False: it looks at the world, so every run, resumed or not, runs it."""
    still_holds: Callable[[Mapping[str, BaseModel]], bool] | None = None
    """Whether earlier outputs still say the truth about files outside the step's directory."""
