"""What to learn and how: settings that are public and need no TensorFlow to read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from fedpipe.data.transform import InputGroup, Transform

FEDAVGM_MOMENTUM = 0.9
FEDPROX_MU = 0.1
SELECTING = ("multi_krum", "bulyan")  # krum leaves out all but one, which says little
ADAPTIVE = ("fedadagrad", "fedadam", "fedyogi")

# Settings that only some strategies read: with another they would say what does not happen.
USED_BY: dict[str, tuple[str, ...]] = {
    "momentum": ("fedavg", "fedavgm", "fedprox"),
    "beta_1": ("fedadam", "fedyogi"),
    "beta_2": ("fedadam", "fedyogi"),
    "tau": ADAPTIVE,
    "proximal_mu": ("fedprox",),
}


LocalOptimizerName = Literal["sgd", "momentum", "adam"]
LOCAL_MOMENTUM = 0.9


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
        description="Step size of the strategy; auto follows from noise, rounds and size.",
    )
    local_learning_rate: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        "auto",
        description="Step size of the clients' own steps, if local_steps > 1; auto: learning_rate, or for "
        "fedadagrad, fedadam and fedyogi what fedavg would take.",
    )
    local_optimizer: LocalOptimizerName = Field(
        "sgd",
        description="What moves a client's weights between its local steps; momentum and adam only with "
        "local_steps > 1. Its answer is the noisy sums that it met, whichever it is.",
    )
    learning_rate_schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="How the step sizes fall towards the last round."
    )
    warmup_rounds: int = Field(0, ge=0, description="First rounds, over which the step sizes rise evenly.")
    strategy: Literal["fedavg", "fedavgm", "fedprox", "fedadagrad", "fedadam", "fedyogi"] = Field(
        "fedavg", description="What the coordinator makes of a round's aggregate."
    )
    momentum: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Server momentum of fedavg (which it turns into fedavgm), fedavgm and fedprox; "
        "nothing: 0.9 for fedavgm, else 0.",
    )
    beta_1: float = Field(0.9, ge=0, lt=1, description="Decay of the mean gradient in fedadam and fedyogi.")
    beta_2: float = Field(0.99, ge=0, lt=1, description="Decay of the mean square in fedadam and fedyogi.")
    tau: float = Field(
        1e-3, gt=0, description="Floor under the root mean square in fedadagrad, fedadam and fedyogi."
    )
    proximal_mu: float | None = Field(
        None,
        ge=0,
        description="How strongly fedprox pulls local steps back to the round's weights; nothing: 0.1.",
    )
    aggregation: Literal["mean", "median", "trimmed_mean", "krum", "multi_krum", "bulyan"] = Field(
        "mean",
        description="How updates are joined. mean weighs clients by size; the others withstand clients that "
        "lie, and weigh all alike.",
    )
    num_byzantine: int = Field(
        0,
        ge=0,
        description="How many lying clients trimmed_mean, krum, multi_krum and bulyan must withstand; "
        "they need 2, 2, 2 and 4 times as many others.",
    )
    average_last: float = Field(
        0.5,
        ge=0,
        le=1,
        description="The model is the mean of this last part of the iterates; 0 takes the last.",
    )
    on_missing: Literal["retry", "continue", "stop"] = Field(
        "retry",
        description="When a client does not answer: ask it again, go on without it, or stop the run.",
    )
    max_retries: int = Field(
        2, ge=0, le=100, description="How often a request is repeated to those that did not answer."
    )
    min_cohort: int = Field(1, ge=1, description="A step or round with fewer answers waits, then stops.")
    min_cohort_fraction: float = Field(
        0.0, ge=0, le=1, description="The same as a part of the clients that take part; the larger counts."
    )
    round_timeout_seconds: float = Field(
        600.0, gt=0, description="How long to wait for a step's or round's answers, over all tries."
    )
    kernel: Literal["book_keeping", "book_keeping_xla", "tensorflow_privacy"] = Field(
        "book_keeping",
        description="Implementation of per-example clipping: book-keeping, fast; the same compiled by XLA, "
        "an option for accelerators; or TensorFlow Privacy's.",
    )

    @property
    def server_momentum(self) -> float:
        """Momentum on the aggregate: what is set, or the strategy's own."""
        if self.momentum is not None:
            return self.momentum
        return FEDAVGM_MOMENTUM if self.strategy == "fedavgm" else 0.0

    @property
    def local_pull(self) -> float:
        """The proximal term's weight: 0 unless the strategy is fedprox."""
        if self.strategy != "fedprox":
            return 0.0
        return FEDPROX_MU if self.proximal_mu is None else self.proximal_mu

    @property
    def names_clients(self) -> bool:
        """Whether the aggregation leaves out whole updates, so that it can name their clients."""
        return self.aggregation in SELECTING

    @property
    def scales_steps(self) -> bool:
        """Whether the strategy divides each weight's step by the size of its gradients."""
        return self.strategy in ADAPTIVE

    @model_validator(mode="after")
    def _check_strategy(self) -> TrainingSettings:
        if self.strategy == "fedavgm" and not self.server_momentum:
            raise ValueError(
                "expected training.momentum > 0 for strategy fedavgm, found 0: use fedavg, or leave it out"
            )
        for name, strategies in USED_BY.items():
            default, value = type(self).model_fields[name].default, getattr(self, name)
            if value not in (default, default or 0) and self.strategy not in strategies:
                raise ValueError(
                    f"expected training.{name} only with strategy {' or '.join(strategies)}, "
                    f"found it with {self.strategy}: leave it out, or change training.strategy"
                )
        return self

    @model_validator(mode="after")
    def _check_local_optimizer(self) -> TrainingSettings:
        if self.local_optimizer != "sgd" and self.local_steps == 1:
            raise ValueError(
                f"expected training.local_steps > 1 for local_optimizer={self.local_optimizer}, found 1: "
                "a single step moves nothing in between"
            )
        if self.local_optimizer != "sgd" and self.local_pull:
            raise ValueError(
                f"expected training.local_optimizer=sgd for strategy fedprox, found {self.local_optimizer}: "
                "the pull goes with plain steps"
            )
        return self

    @model_validator(mode="after")
    def _check_byzantine(self) -> TrainingSettings:
        if self.num_byzantine and self.aggregation in ("mean", "median"):
            raise ValueError(
                "expected training.num_byzantine only with trimmed_mean, krum, multi_krum or bulyan, "
                f"found it with aggregation {self.aggregation}: leave it out, or change training.aggregation"
            )
        return self

    @model_validator(mode="after")
    def _check_warmup(self) -> TrainingSettings:
        if self.warmup_rounds >= self.num_rounds:
            raise ValueError(
                f"expected training.warmup_rounds below num_rounds={self.num_rounds}, "
                f"found {self.warmup_rounds}: lower it, or train for longer"
            )
        return self


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
