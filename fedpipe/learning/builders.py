"""A user's own model: where its builder is found."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedpipe.errors import ConfigError
from fedpipe.files import sha256


def builder_digest(builder: str) -> str:
    """Returns the SHA-256 of the source file that holds the builder: what a trained model depends on.

    Raises:
      ConfigError: there is no such function, or no source of it.
    """
    source = inspect.getsourcefile(find_builder(builder))
    if source is None:
        raise ConfigError(f"Expected model.builder={builder!r} in a Python file, found no source of it.")
    return sha256(Path(source).read_bytes())


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
