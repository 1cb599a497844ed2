"""When two tries of a step would do the same: the fingerprint that decides whether one may stand for both."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from fedpipe.errors import PipelineError
from fedpipe.files import digest_json, sha256
from fedpipe.pipeline.step import Step


def fingerprint(step: Step, inputs: Mapping[str, str]) -> str:
    """Returns the SHA-256 of the step's name, settings, input digests and code.

    Args:
        step: the step.
        inputs: the digest of each input's content, by name.

    Raises:
        PipelineError: the source of the step's function cannot be read.
    """
    return digest_json(
        {
            "step": step.name,
            "settings": dict(step.settings),
            "inputs": dict(inputs),
            "code": code_digest(step.function),
        }
    )


def code_digest(function: Callable[..., Any]) -> str:
    """Returns the SHA-256 of the module that defines `function`, behind any partial or wrapper.

    Modules that it imports are not covered.
    """
    plain = _plain(function)
    module = inspect.getmodule(plain if inspect.isroutine(plain) else type(plain))
    try:
        return sha256(inspect.getsource(module).encode())  # type: ignore[arg-type]  # None raises TypeError
    except (OSError, TypeError) as error:
        raise PipelineError(
            f"Expected a step function that is defined in a source file, found {plain!r}. Move it into one."
        ) from error


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        else:
            return function
