"""A user's own model: where its builder is found."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from fedpipe.errors import ConfigError


def find_builder(builder: str) -> Callable[..., Any]:
    """Returns the function that `package.module:function` names.

    Raises:
      ConfigError: there is none.
    """
    importlib.import_module("fedpipe.learning.tensorflow_runtime")  # our settings, before theirs
    module_name, _, name = builder.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"Expected a function at model.builder={builder!r}, found none: "
            "install its package, or add its folder to PYTHONPATH."
        ) from error
    return found
