"""What a cell of the label means: a class, or nothing known."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError

from fedpipe.data.cells import parse_labels
from fedpipe.data.schema import Label

DISPUTED = {"name": "disputed", "classes": {"no": ["n", "false"], "yes": ["y", "true"]}}
MISSING = ("", "-9", "n/a")


def classes(cells: list[str], **fields: Any) -> list[int]:
    label = Label.model_validate({**DISPUTED, **fields})
    return [int(number) for number in parse_labels(pd.Series(cells, dtype=object), label, MISSING)]


def test_classes_are_found_by_name_and_spelling_in_any_case() -> None:
    assert classes(["No", " N ", "FALSE", "yes", "Y", "True", "maybe", "", "n/a", "1"]) == [
        *([0] * 3), *([1] * 3), *([-1] * 4)
    ]  # fmt: skip


def test_an_empty_cell_may_mean_the_first_class_and_only_an_empty_one() -> None:
    assert classes(["", " ", "N/A", "-9", "yes", "maybe"], missing="negative") == [0, 0, 0, 0, 1, -1]


def test_numbers_above_are_positive_and_missing_ones_are_unknown() -> None:
    cells = ["0", "0.0", "1", "4", "-1", "-9", "-9.0", "", "many", "1e1", "inf"]
    assert classes(cells, positive_above=0) == [0, 0, 1, 1, 0, -1, -1, -1, -1, 1, -1]
    assert classes(["-9", "2"], positive_above=0, missing="negative") == [0, 1]


def test_spellings_win_over_the_threshold() -> None:
    fields = {"classes": {"healthy": ["9"], "ill": ["-1"]}, "positive_above": 0}
    assert classes(["9", "9.0", "-1", "Healthy", "ILL", "8"], **fields) == [0, 0, 1, 0, 1, 1]


@pytest.mark.parametrize("fields", [{"positive_above": 0}, {"missing": "negative"}])
def test_only_two_classes_have_a_threshold_or_a_negative(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="two classes"):
        Label.model_validate({"name": "x", "classes": {"a": [], "b": [], "c": []}, **fields})
