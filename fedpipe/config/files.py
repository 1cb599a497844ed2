"""From a name, a file and overrides to a checked configuration."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from fedpipe.config.settings import Config
from fedpipe.config_errors import explain
from fedpipe.errors import ConfigError, nearest
from fedpipe.yaml_files import read_yaml


def config_names() -> list[str]:
    """Returns the names of the configurations that come with fedpipe."""
    return sorted(path.stem for path in _config_directory().glob("*.yaml"))


def load_config(name_or_path: str, overrides: Iterable[str] = ()) -> Config:
    """Returns the configuration of that name or file, with `key.path=value` overrides applied.

    Raises:
      ConfigError: for an unknown name, a missing or malformed file, or a setting that does not fit.
    """
    path = find_config(name_or_path)
    raw = _read_yaml(path)
    for override in overrides:
        _apply(raw, override)
    return parse_config(raw, source=path.name)


def find_config(name_or_path: str) -> Path:
    """Returns the file of a configuration given by name or by path."""
    if name_or_path.endswith((".yaml", ".yml")) or "/" in name_or_path:
        path = Path(name_or_path)
        if not path.is_file():
            raise ConfigError(f"Expected a configuration file at {name_or_path}, found none: check the path.")
        return path
    path = _config_directory() / f"{name_or_path}.yaml"
    if not path.is_file():
        raise ConfigError(
            f"Expected a configuration name or a YAML file, found {name_or_path!r}. "
            f"{nearest(name_or_path, config_names())}"
        )
    return path


def parse_config(raw: Mapping[str, Any], *, source: str) -> Config:
    """Returns the checked configuration.

    Raises:
      ConfigError: naming the first setting that does not fit, and the nearest valid name.
    """
    try:
        return Config.model_validate(dict(raw))
    except ValidationError as error:
        raise ConfigError(explain(error, Config, raw, source)) from error


def _config_directory() -> Path:
    packaged = Path(str(importlib.resources.files("fedpipe"))) / "_configs"
    return packaged if packaged.is_dir() else packaged.parent.parent / "configs"


def _read_yaml(path: Path) -> dict[str, Any]:
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise ConfigError(
            f"Expected settings (key: value) in {path.name}, found {type(raw).__name__}: "
            "see 'fedpipe config show breast_cancer'."
        )
    return raw


def _apply(raw: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    *parents, leaf = key.strip().split(".")
    if not separator or not all((*parents, leaf)):
        raise ConfigError(
            f"Expected --set KEY.PATH=VALUE, such as --set privacy.epsilon=4, found {override!r}."
        )
    try:
        value = yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(
            f"Expected a YAML value in --set {override!r}, found none: put text in quotes."
        ) from error
    target = raw
    for parent in parents:
        target = target.setdefault(parent, {})
        if not isinstance(target, dict):
            raise ConfigError(
                f"Expected a group of settings at {parent!r} in --set {override!r}, found a value: "
                "set it without what follows."
            )
    target[leaf] = _with_numbers(value)


def _with_numbers(value: Any) -> Any:
    """Returns `value` with numbers where YAML 1.1 reads text for want of a point, as in 1e-5."""
    if isinstance(value, list):
        return [_with_numbers(entry) for entry in value]
    if isinstance(value, dict):
        return {name: _with_numbers(entry) for name, entry in value.items()}
    is_number = isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]+(\.[0-9]*)?[eE][+-]?[0-9]+", value)
    return float(value) if is_number else value
