"""How the templates of all reports are found and filled in: alike, and with everything escaped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import BaseLoader, ChoiceLoader, Environment, PackageLoader, StrictUndefined


def make_environment(*filters: Callable[..., Any], folder: tuple[str, str] | None = None) -> Environment:
    """Returns what fills templates in; a name that a template does not know is an error.

    Args:
      filters: templates call them by their names.
      folder: package and folder of further templates, which come before those of this package.
    """
    loaders: list[BaseLoader] = [PackageLoader("fedpipe", "reports")]
    if folder is not None:
        loaders.insert(0, PackageLoader(*folder))
    environment = Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {function.__name__: function for function in filters}
    return environment
