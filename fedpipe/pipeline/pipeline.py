"""The graph of steps: checked when it is made, always walked in the same order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from fedpipe.errors import PipelineError, nearest
from fedpipe.files import canonical_json
from fedpipe.pipeline.step import Step

_STEP_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


class Pipeline:
    """A directed acyclic graph of steps, joined by the names of their artifacts.

    `steps` holds them in topological order: of the steps that are ready, the one that was
    given first comes first, so the same steps always run in the same order.

    Raises:
        PipelineError: two steps or two outputs share a name, an input is made by no step, the
            steps form a cycle, a name cannot be used, or settings cannot be written as JSON.
    """

    def __init__(self, steps: Iterable[Step]) -> None:
        given = tuple(steps)
        _check_names(given)
        for step in given:
            _check_settings(step)
        producers = _producers(given)
        _check_inputs(given, producers)
        self.steps: tuple[Step, ...] = _topological_order(given, producers)


def _check_names(steps: Sequence[Step]) -> None:
    """Names become directories, files and keyword arguments."""
    seen: set[str] = set()
    for step in steps:
        if not _STEP_NAME.fullmatch(step.name):
            raise PipelineError(
                f"Expected a step name of letters, digits, '_' and '-' that begins with a letter, "
                f"found {step.name!r}. Rename the step."
            )
        if step.name in seen:
            raise PipelineError(f"Expected step names to be unique, found {step.name} twice. Rename one.")
        seen.add(step.name)
        for output in step.outputs:
            if not output.isidentifier() or output == "directory":
                raise PipelineError(
                    f"Expected step {step.name} to name its outputs by identifiers other than "
                    f"'directory', found {output!r}. Rename the output."
                )


def _check_settings(step: Step) -> None:
    try:
        canonical_json(dict(step.settings))
    except (TypeError, ValueError) as error:
        raise PipelineError(
            f"Expected the settings of step {step.name} to be plain JSON values, without NaN. "
            f"Convert them before the step is made."
        ) from error


def _producers(steps: Sequence[Step]) -> dict[str, Step]:
    """Returns the step that makes each artifact."""
    producers: dict[str, Step] = {}
    for step in steps:
        for output in step.outputs:
            if output in producers:
                raise PipelineError(
                    f"Expected each artifact to be made by one step, found {output} made by "
                    f"{producers[output].name} and {step.name}. Rename one output."
                )
            producers[output] = step
    return producers


def _check_inputs(steps: Sequence[Step], producers: dict[str, Step]) -> None:
    for step in steps:
        for name in step.inputs:
            if name not in producers:
                raise PipelineError(
                    f"Expected each input of step {step.name} to be made by a step, found {name}. "
                    f"{nearest(name, producers)}"
                )


def _topological_order(steps: Sequence[Step], producers: dict[str, Step]) -> tuple[Step, ...]:
    ordered: list[Step] = []
    made: set[str] = set()
    waiting = list(steps)
    while waiting:
        ready = next((step for step in waiting if made.issuperset(step.inputs)), None)
        if ready is None:
            raise PipelineError(
                f"Expected steps without a cycle, found {' -> '.join(_cycle(waiting, producers))}. "
                f"Remove one of these inputs."
            )
        waiting.remove(ready)
        ordered.append(ready)
        made.update(ready.outputs)
    return tuple(ordered)


def _cycle(waiting: Sequence[Step], producers: dict[str, Step]) -> list[str]:
    """Returns the step names along one cycle, each making an input of the next.

    Every waiting step has an input made by a waiting step, so walking back must repeat one.
    """
    names = {step.name for step in waiting}
    path: list[str] = []
    step = waiting[0]
    while step.name not in path:
        path.append(step.name)
        step = next(producers[name] for name in step.inputs if producers[name].name in names)
    return [step.name, *reversed(path[path.index(step.name) :])]
