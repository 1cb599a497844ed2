"""YAML as people write it: what is wrong is said with line and column, and no key may stand there twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from fedpipe.errors import ConfigError


def read_yaml(path: Path) -> Any:
    """Returns what the YAML file at `path` holds.

    Raises:
      ConfigError: it is no YAML, or cannot be read.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506  a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = str(error.problem).removeprefix("but ").removeprefix("found ")
        raise ConfigError(f"Expected YAML in {path.name}, found {problem}{where}: correct it.") from error
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(
            f"Expected YAML text in {path.name}, found something else: "
            "save it as UTF-8, with dates in quotes."
        ) from error
    except OSError as error:
        found = "nothing" if isinstance(error, FileNotFoundError) else error.strerror or "an error"
        raise ConfigError(f"Expected a readable file at {path}, found {found}: restore it.") from error


class _Loader(yaml.SafeLoader):
    """Refuses a key that occurs twice, of which YAML would keep the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)
