"""The exception tree: what callers may catch, and what the command line exits with."""

from __future__ import annotations

import inspect

import pytest

from fedpipe import errors
from fedpipe.errors import BudgetError, FedpipeError, nearest

KINDS = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, FedpipeError)]


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    assert errors.__doc__ is not None
    lines = errors.__doc__.splitlines()
    for kind in KINDS:
        line = next(line for line in lines if kind.__name__ in line)
        assert ("also ValueError" in line) == issubclass(kind, ValueError)


@pytest.mark.parametrize("kind", KINDS)
def test_bad_input_exits_with_two_and_a_refused_budget_with_three(kind: type[FedpipeError]) -> None:
    assert kind.exit_code == (3 if issubclass(kind, BudgetError) else 2)


def test_close_names_are_suggested_and_otherwise_all_are_listed() -> None:
    assert nearest("trian", ["train", "validate"]) == "Did you mean train?"
    assert nearest("xyz", ["train", "analyze"]) == "Valid names: analyze, train."
    assert nearest("rain", ["train", "drain"]) in (
        "Did you mean train or drain?",
        "Did you mean drain or train?",
    )
