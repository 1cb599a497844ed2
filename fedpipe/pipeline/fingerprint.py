"""When two tries of a step would do the same: the fingerprint that decides whether one may stand for both."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedpipe.errors import PipelineError
from fedpipe.files import canonical_json, digest_json
from fedpipe.pipeline.step import Step
from fedpipe.provenance import code_digest

CODE = "code"
MAX_VALUE = 60  # longer settings are kept as digests
MAX_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """All that a step's result depends on, as flat texts: `settings.a.b`, `input.name`, `code`."""

    parts: Mapping[str, str]

    @property
    def digest(self) -> str:
        """The SHA-256 of all parts."""
        return digest_json(dict(self.parts))

    def changes_since(self, earlier: Mapping[str, str]) -> str:
        """Returns in words what differs from `earlier` parts.

        >>> Fingerprint(parts={"settings.min_count": "40"}).changes_since({"settings.min_count": "50"})
        'min_count changed from 50 to 40'
        """
        names = sorted(name for name in {*self.parts, *earlier} if self.parts.get(name) != earlier.get(name))
        # Settings come before inputs: an input that changed says only that an earlier step ran again.
        names.sort(key=lambda name: (not name.startswith("settings."), name != CODE))
        told = [_told(name, earlier.get(name), self.parts.get(name)) for name in names[:MAX_NAMED]]
        more = [f"{len(names) - MAX_NAMED} more"] if len(names) > MAX_NAMED else []
        return "; ".join([*told, *more]) or "nothing it depends on changed"


def fingerprint(step: Step, inputs: Mapping[str, str]) -> Fingerprint:
    """Returns the fingerprint of `step` on `inputs`, the digest of each input's content by name.

    Raises:
        PipelineError: the source of the step's function cannot be read.
    """
    return Fingerprint(
        parts={
            "step": step.name,
            CODE: code_digest(_module(step.function)),
            **{f"input.{name}": digest for name, digest in inputs.items()},
            **dict(_flat("settings", dict(step.settings))),
        }
    )


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for name, entry in value.items():
            yield from _flat(f"{prefix}.{name}", entry)
        return
    text = canonical_json(value)
    yield prefix, text if len(text) <= MAX_VALUE else f"sha256:{digest_json(value)}"


def _told(name: str, before: str | None, now: str | None) -> str:
    kind, _, rest = name.partition(".")
    if kind == CODE:
        return "the code changed"
    if kind == "input":
        return f"its input {rest} changed"
    if before is None or now is None:
        return f"{rest} is {'new' if before is None else 'gone'}"
    shown = not (before.startswith("sha256:") or now.startswith("sha256:"))
    return f"{rest} changed from {before} to {now}" if shown else f"{rest} changed"


def _module(function: Callable[..., Any]) -> str:
    """Returns the name of the module that defines `function`, behind any partial or wrapper."""
    plain = _plain(function)
    module = inspect.getmodule(plain if inspect.isroutine(plain) else type(plain))
    if module is None:
        raise PipelineError(
            f"Expected a step function that is defined in a source file, found {plain!r}. Move it into one."
        )
    return module.__name__


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        else:
            return function
