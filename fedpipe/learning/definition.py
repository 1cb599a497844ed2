"""What to learn and how: settings that are public and need no TensorFlow to read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from fedpipe.data.transform import InputGroup, Transform


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class ModelSettings(_Strict):
    """The architecture. It ends in logits: one for two classes, otherwise one per class."""

    name: str = Field(
        "model",
        pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$",
        description="Name under which it is registered.",
    )
    type: Literal["logistic_regression", "mlp", "wide_and_deep", "cnn", "custom"] = Field(
        "logistic_regression",
        description="Architecture. wide_and_deep: linear in the table, hidden layers on the text; "
        "cnn: one image.",
    )
    hidden_units: tuple[PositiveInt, ...] = Field(
        (64, 16), description="Widths of the hidden layers of mlp and wide_and_deep."
    )
    builder: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="For type custom: package.module:function, which takes a ModelDefinition and returns a "
        "Keras model of its inputs that ends in logits.",
    )

    @model_validator(mode="after")
    def _check_builder(self) -> ModelSettings:
        if (self.type == "custom") != (self.builder is not None):
            raise ValueError("expected a builder exactly for type custom")
        return self


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
    kernel: Literal["book_keeping", "tensorflow_privacy"] = Field(
        "book_keeping",
        description="Implementation of per-example clipping: book-keeping, fast, or TensorFlow Privacy's.",
    )


class ModelDefinition(_Strict):
    """Everything that fixes the architecture's shape."""

    settings: ModelSettings
    num_features: int = Field(ge=1)
    num_classes: int = Field(ge=2)
    groups: tuple[InputGroup, ...] = ()

    @classmethod
    def make(cls, settings: ModelSettings, transform: Transform, num_classes: int) -> ModelDefinition:
        """Returns the definition of a model on what `transform` makes."""
        return cls(
            settings=settings,
            num_features=transform.num_features,
            num_classes=num_classes,
            groups=transform.groups,
        )

    @property
    def num_logits(self) -> int:
        """One logit for two classes, otherwise one per class."""
        return 1 if self.num_classes == 2 else self.num_classes
