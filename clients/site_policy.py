"""The site policy: a YAML file in which a data owner says what her node may do. No operator can change it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedpipe.config_errors import explain
from fedpipe.errors import ConfigError
from fedpipe.files import write_text
from fedpipe.yaml_files import read_yaml

Step = Literal["statistics", "preprocess", "train", "analyze"]
ModelType = Literal["logistic_regression", "mlp", "wide_and_deep", "cnn", "custom"]

INTRODUCTION = """\
# What this node may do with your records. It decides by this file, whatever an operator asks.
# It is read again for every request. docs/federation.md explains each line.
"""


class SitePolicy(BaseModel):
    """policy.yaml: budgets, what may be asked, and by whom it must be approved."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    block_epsilon: float = Field(
        8.0, gt=0, description="Lifetime budget of a block: of the records of one span and split."
    )
    block_delta: float = Field(1e-5, gt=0, lt=1, description="Delta of that budget.")
    total_epsilon: float | None = Field(
        None,
        gt=0,
        description="What all runs together may claim, their epsilons added, and their deltas with them; "
        "null: no bound but the blocks'.",
    )
    allowed_steps: tuple[Step, ...] = Field(
        ("statistics", "preprocess", "train", "analyze"), description="Steps that may ask for releases."
    )
    allowed_models: tuple[ModelType, ...] = Field(
        ("logistic_regression", "mlp", "wide_and_deep", "cnn"),
        description="Architectures that may be trained. custom runs a function that you installed.",
    )
    declared_size: int | Literal["withheld"] = Field(
        "withheld",
        description="A number of records that you declare to the operator, public from then on; or withheld.",
    )
    min_cohort: int = Field(
        1, ge=1, description="Runs that would go on with fewer clients (training.min_cohort) are refused."
    )
    manual_approval: bool = Field(
        False, description="Every run waits for: fedpipe client approve RUN. It sees nothing before."
    )
    max_memory_mib: int = Field(
        4096,
        ge=1,
        description="What a model may take here, estimated from its settings before anything is built. A "
        "run that would take more is refused.",
    )
    max_message_bytes: int = Field(1 << 30, ge=1 << 20, description="Of one request.")


def read_policy(path: Path) -> SitePolicy:
    """Returns the policy in `path`.

    Raises:
      ConfigError: it is missing or malformed: a node without a policy answers nobody.
    """
    found = read_yaml(path)
    if not isinstance(found, dict):
        # An emptied file would otherwise stand for the defaults, which may allow more.
        raise ConfigError(f"Expected lines of a site policy in {path}, found none: restore it.")
    try:
        return SitePolicy.model_validate(found)
    except ValidationError as error:
        raise ConfigError(explain(error, SitePolicy, found, str(path), overridable=False)) from error


def write_policy(path: Path, policy: SitePolicy) -> None:
    """Writes `policy` with a comment on every line."""
    values = policy.model_dump(mode="json")
    lines = [INTRODUCTION]
    for name, field in SitePolicy.model_fields.items():
        lines.append(f"# {field.description}")
        lines.append(f"{name}: {json.dumps(values[name])}\n")
    write_text(path, "\n".join(lines))
