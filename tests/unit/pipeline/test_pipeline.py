"""The graph of steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import BaseModel

from fedpipe.errors import PipelineError
from fedpipe.pipeline import Pipeline, Step


class Value(BaseModel):
    number: int


def _never(**_: object) -> Mapping[str, BaseModel]:
    raise AssertionError("A graph is checked without running it.")


def _step(name: str, inputs: str = "", outputs: str = "", **settings: Any) -> Step:
    return Step(
        name=name,
        function=_never,
        inputs=tuple(inputs.split()),
        outputs=dict.fromkeys(outputs.split(), Value),
        settings=settings,
    )


def _names(pipeline: Pipeline) -> list[str]:
    return [step.name for step in pipeline.steps]


def test_steps_follow_those_whose_outputs_they_take() -> None:
    steps = [_step("train", "spans", "model"), _step("ingest", "", "spans"), _step("analyze", "model spans")]
    assert _names(Pipeline(steps)) == ["ingest", "train", "analyze"]


def test_independent_steps_keep_the_given_order() -> None:
    steps = [_step("c", "", "x"), _step("a", "", "y"), _step("b", "x y", "z")]
    assert _names(Pipeline(steps)) == ["c", "a", "b"]
    assert _names(Pipeline([steps[2], steps[1], steps[0]])) == ["a", "c", "b"]


def test_pipeline_without_steps_is_empty() -> None:
    assert Pipeline([]).steps == ()


def test_missing_input_names_the_nearest_artifact() -> None:
    with pytest.raises(PipelineError, match=r"step train .* found span\. Did you mean spans\?"):
        Pipeline([_step("ingest", "", "spans"), _step("train", "span", "model")])


def test_two_steps_of_one_name_are_refused() -> None:
    with pytest.raises(PipelineError, match="found train twice"):
        Pipeline([_step("train", "", "a"), _step("train", "", "b")])


def test_one_artifact_of_two_steps_is_refused() -> None:
    with pytest.raises(PipelineError, match="found model made by train and tune"):
        Pipeline([_step("train", "", "model"), _step("tune", "", "model")])


def test_cycle_is_refused_and_spelled_out() -> None:
    first, second, third = _step("a", "z", "x"), _step("b", "x", "y"), _step("c", "y", "z")
    with pytest.raises(PipelineError, match="found a -> b -> c -> a"):
        Pipeline([first, second, third])


def test_cycle_is_found_behind_steps_that_only_depend_on_it() -> None:
    with pytest.raises(PipelineError, match="found b -> a -> b"):
        Pipeline([_step("late", "y"), _step("a", "y", "x"), _step("b", "x", "y")])


def test_step_that_takes_its_own_output_is_a_cycle() -> None:
    with pytest.raises(PipelineError, match="found a -> a"):
        Pipeline([_step("a", "x", "x")])


@pytest.mark.parametrize("name", ["", "..", "a/b", "1st", "a b"])
def test_step_name_that_is_no_directory_name_is_refused(name: str) -> None:
    with pytest.raises(PipelineError, match="Rename the step"):
        Pipeline([_step(name)])


@pytest.mark.parametrize("output", ["directory", "a-b", "../model"])
def test_output_that_cannot_be_an_argument_is_refused(output: str) -> None:
    with pytest.raises(PipelineError, match="Rename the output"):
        Pipeline([_step("train", "", output)])


@pytest.mark.parametrize("value", [float("nan"), object(), {1, 2}])
def test_settings_that_json_cannot_hold_are_refused(value: object) -> None:
    with pytest.raises(PipelineError, match="settings of step train"):
        Pipeline([_step("train", clipping_norm=value)])
