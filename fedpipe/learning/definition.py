"""What to learn and how: settings that are public and need no TensorFlow to read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class ModelSettings(_Strict):
    """The architecture. It ends in logits: one for two classes, otherwise one per class."""

    name: str = Field(
        "model",
        pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$",
        description="Name under which it is registered.",
    )
    type: Literal["logistic_regression", "mlp"] = Field("logistic_regression", description="Architecture.")
    hidden_units: tuple[PositiveInt, ...] = Field((64, 16), description="Widths of an mlp's hidden layers.")


class TrainingSettings(_Strict):
    """Federated training. All values are public constants."""

    num_rounds: int = Field(40, ge=1, le=100_000, description="Rounds of federated training.")
    sampling_probability: float = Field(
        0.3, gt=0, le=1, description="Chance of each record to be in each local step (Poisson sampling)."
    )
    local_steps: int = Field(1, ge=1, le=1000, description="DP-SGD steps at a client in each round.")
    clipping_norm: float = Field(1.0, gt=0, description="L2 bound of each record's gradient.")
    learning_rate: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        "auto",
        description="Step size on the mean clipped gradient; auto follows from noise, rounds and size.",
    )
    momentum: float = Field(0.0, ge=0, lt=1, description="Server momentum on the aggregate (FedAvgM).")
    average_last: float = Field(
        0.5,
        ge=0,
        le=1,
        description="The model is the mean of this last part of the iterates; 0 takes the last.",
    )
    min_cohort: int = Field(1, ge=1, description="A round with fewer answers stops the run.")
    round_timeout_seconds: float = Field(600.0, gt=0, description="How long to wait for a round's answers.")
    kernel: Literal["tensorflow_privacy"] = Field(
        "tensorflow_privacy", description="Implementation of per-example clipping."
    )


class ModelDefinition(_Strict):
    """Everything that fixes the architecture's shape."""

    settings: ModelSettings
    num_features: int = Field(ge=1)
    num_classes: int = Field(ge=2)

    @property
    def num_logits(self) -> int:
        """One logit for two classes, otherwise one per class."""
        return 1 if self.num_classes == 2 else self.num_classes
