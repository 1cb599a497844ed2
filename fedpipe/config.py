"""One configuration: every setting with its default, checked before anything heavy is imported."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedpipe.data import PreprocessSettings, Schema
from fedpipe.errors import ConfigError, nearest
from fedpipe.learning import ModelSettings, TrainingSettings
from fedpipe.privacy import Shares


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class DataSettings(_Strict):
    """Where a simulation's records come from. Real clients bring their own."""

    source: str | None = Field(
        None, description="A built-in data set (sklearn:breast_cancer, sklearn:digits); --data replaces it."
    )


class FederationSettings(_Strict):
    """How a simulation divides records among clients."""

    num_clients: int = Field(10, ge=1, le=10_000, description="Number of clients, unless a column or file decides.")
    partition: Literal["iid", "dirichlet", "column", "file"] = Field(
        "iid", description="iid; dirichlet (label skew); column (schema.client_column); file (one client a file)."
    )
    dirichlet_alpha: float = Field(1.0, gt=0, description="Label skew of a dirichlet partition; smaller is more.")
    engine: Literal["in-process"] = Field("in-process", description="What runs the Flower apps.")


class ValidateSettings(_Strict):
    """What makes the data suspicious, before anything is spent on training."""

    max_unusable_share: float = Field(
        0.5, gt=0, le=1, description="Largest share of missing or malformed cells in a column."
    )
    max_unlabelled_share: float = Field(0.9, gt=0, le=1, description="Largest share of records without a label.")
    min_records: float = Field(20.0, ge=0, description="Least (noisy) number of labelled training records in all.")
    on_anomaly: Literal["warn", "stop"] = Field("warn", description="What a suspicious column does to the run.")


class AnalyzeSettings(_Strict):
    """How a model is evaluated."""

    num_bins: int = Field(20, ge=4, le=512, description="Score bins of the private evaluation.")


class PrivacySettings(_Strict):
    """The promise to each record."""

    enabled: bool = Field(True, description="false trains without noise; every artifact is marked NOT PRIVATE.")
    epsilon: float = Field(8.0, ge=0.01, le=1000, description="Total per record, over all steps of a run.")
    delta: float = Field(1e-5, gt=0, lt=0.1, description="Total per record, over all steps of a run.")
    shares: Shares = Field(default_factory=lambda: Shares.model_validate({}), description="Budget by step.")
    randomness: Literal["secure", "seeded"] = Field(
        "secure", description="seeded is for tests: repeatable noise protects nobody, and is marked."
    )
    lifetime_epsilon: float | None = Field(
        None, gt=0, description="Budget of a record over all runs; none: three runs of the first configuration."
    )


class Config(_Strict):
    """A whole problem: what to learn, from what, by whom, at what price."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$", description="Name of the problem and its pipeline.")
    description: str = Field("", description="One line for people.")
    data: DataSettings = Field(default_factory=DataSettings)
    data_schema: Schema = Field(alias="schema", description="Columns, label and key.")
    eval_fraction: float = Field(0.25, gt=0, lt=1, description="Part of the records kept for evaluation.")
    federation: FederationSettings = Field(default_factory=FederationSettings)
    validation: ValidateSettings = Field(default_factory=ValidateSettings)
    preprocess: PreprocessSettings = Field(default_factory=lambda: PreprocessSettings.model_validate({}))
    model: ModelSettings = Field(default_factory=lambda: ModelSettings.model_validate({}))
    training: TrainingSettings = Field(default_factory=lambda: TrainingSettings.model_validate({}))
    analyze: AnalyzeSettings = Field(default_factory=lambda: AnalyzeSettings.model_validate({}))
    privacy: PrivacySettings = Field(default_factory=lambda: PrivacySettings.model_validate({}))


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
        raise ConfigError(_explain(error, source)) from error


def _config_directory() -> Path:
    packaged = Path(str(importlib.resources.files("fedpipe"))) / "_configs"
    return packaged if packaged.is_dir() else packaged.parent.parent / "configs"


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"Expected YAML in {path.name}, found {error.problem}{where}.") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"Expected YAML text in {path.name}, found something else.") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"Expected settings (key: value) in {path.name}, found {type(raw).__name__}.")
    return raw


def _apply(raw: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip("."):
        raise ConfigError(f"Expected --set key.path=value, found {override!r}.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"Expected a YAML value in --set {override!r}, found none.") from error
    *parents, leaf = key.strip().split(".")
    target = raw
    for parent in parents:
        target = target.setdefault(parent, {})
        if not isinstance(target, dict):
            raise ConfigError(f"Expected a group of settings at {parent!r} in --set {override!r}, found a value.")
    target[leaf] = _number(value)


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-5 as text; people mean the number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _explain(error: ValidationError, source: str) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the configuration"
    if first["type"] == "extra_forbidden":
        return (
            f"Expected a known setting, found {where!r} in {source}. "
            f"{nearest(str(first['loc'][-1]), _fields_at(first['loc'][:-1]))}"
        )
    if first["type"] == "missing":
        return f"Expected a setting {where!r} in {source}, found none: add it."
    found = "" if isinstance(first["input"], dict) else f", found {first['input']!r}"
    wanted = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    wanted = wanted.removeprefix("expected ").removesuffix(".")
    return f"Expected {where} to be {wanted}{found} (in {source})."


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    model: Any = Config
    for part in location:
        fields = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
        model = fields.get(str(part))
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return []
    return [field.alias or name for name, field in model.model_fields.items()]
