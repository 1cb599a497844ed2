"""Every setting with its default and its bounds, and what settings demand of one another."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from fedpipe.data import CategoricalColumn, PreprocessSettings, Schema
from fedpipe.data.spans import UNDATED, check_spans
from fedpipe.errors import ConfigError, nearest
from fedpipe.learning import ModelSettings, TrainingSettings
from fedpipe.privacy import Shares, UserUnit

MAX_SPANS = 500


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def _defaults(group: type[BaseModel], description: str | None = None) -> Any:
    """Returns a field that holds `group` with the default of every setting in it."""
    return Field(default_factory=lambda: group.model_validate({}), description=description)


class DataSettings(_Strict):
    """Where a simulation's records come from. Real clients bring their own."""

    source: str | None = Field(
        None,
        description="A built-in population: synthetic:complaints, sklearn:breast_cancer, sklearn:digits, or "
        "idx:FOLDER (images in the format of MNIST); --data replaces it.",
    )
    limit: int | None = Field(None, ge=1, description="Use only so many records of it, for a quick look.")


class FederationSettings(_Strict):
    """How a simulation divides records among clients."""

    num_clients: int = Field(
        10, ge=1, le=10_000, description="Number of clients, unless a column or file decides."
    )
    partition: Literal["iid", "dirichlet", "column", "file"] = Field(
        "iid",
        description="iid; dirichlet (label skew); column (schema.client_column); file (one client a file).",
    )
    dirichlet_alpha: float = Field(
        1.0, gt=0, description="Label skew of a dirichlet partition; smaller is more."
    )
    min_records: int = Field(1, ge=1, description="A client with fewer records is small.")
    small_clients: Literal["keep", "pool", "drop"] = Field(
        "pool", description="Small clients stay, are pooled into one client, or are left out."
    )
    engine: Literal["in-process", "ray"] = Field(
        "in-process", description="What runs the Flower apps; ray uses several processors. No result changes."
    )
    num_actors: int | None = Field(
        None, ge=1, le=1024, description="Ray's client processes; none: one for each processor."
    )


class ValidateSettings(_Strict):
    """What makes the data suspicious, before anything is spent on training."""

    max_unusable_share: float = Field(
        0.5, gt=0, le=1, description="Largest share of missing or malformed cells in a column."
    )
    max_unlabelled_share: float = Field(
        0.9, gt=0, le=1, description="Largest share of records without a label."
    )
    min_records: float = Field(
        20.0, ge=0, description="Least (noisy) number of labelled training records in all."
    )
    on_anomaly: Literal["warn", "stop", "ignore"] = Field(
        "warn", description="What a suspicious column does to the run."
    )
    max_label_shift: float = Field(
        0.1,
        gt=0,
        le=1,
        description="A class's share may change by so much from one span to the next; this much or more, "
        "beyond noise, is an alert.",
    )
    max_client_shift: float = Field(
        0.3,
        gt=0,
        le=1,
        description="A class's share may differ so much between a client and all others before it is noted.",
    )
    on_label_shift: Literal["warn", "stop", "ignore", "reweight", "resample"] = Field(
        "warn",
        description="The answer to an alert. reweight: training weighs records by span and class; resample: "
        "it draws them less often instead.",
    )
    shift_target: Literal["newest", "previous", "even"] = Field(
        "newest",
        description="The balance of classes that reweight and resample aim at: that of the newest span, of "
        "the one before it, or an even one.",
    )


class SpanSettings(_Strict):
    """Which spans a run uses, where schema.time is set. Records of others are left alone."""

    last: int | None = Field(
        None,
        ge=1,
        le=MAX_SPANS,
        description="Only so many spans, the newest ones; none: all that the data has.",
    )
    until: str | None = Field(
        None, description="The newest span, such as 2026-Q1; none: the newest that the data has."
    )
    names: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        max_length=MAX_SPANS,
        description="Exactly these spans, instead of last and until. A simulation finds them in its data; "
        "the coordinator of a real federation takes them from the clock.",
    )

    @model_validator(mode="after")
    def _check_names(self) -> SpanSettings:
        if self.names is not None and (self.last, self.until) != (None, None):
            raise ValueError("expected either spans.names, or spans.last and spans.until")
        return self


class AnalyzeSettings(_Strict):
    """How a model is evaluated."""

    num_bins: int = Field(20, ge=4, le=512, description="Score bins of the private evaluation.")
    slices: tuple[str, ...] = Field(
        (),
        description="Categorical columns by whose values quality is shown. Each is one more noisy histogram, "
        "paid for by privacy.shares.slices; quality by client costs nothing more.",
    )
    slice_bins: int = Field(10, ge=8, le=64, description="Score bins of each slice.")


class PrivacySettings(_Strict):
    """The promise to each record, or to each user."""

    enabled: bool = Field(
        True, description="false trains without noise; every artifact is marked NOT PRIVATE."
    )
    unit: Annotated[
        Annotated[Literal["record"], Tag("record")] | Annotated[UserUnit, Tag("user")],
        Discriminator(lambda unit: "record" if isinstance(unit, str) else "user"),
    ] = Field(
        "record",
        description="What the guarantee is for: record; or {column: NAME, max_records: K}, for all of a "
        "user's records at a client, of which a release reads at most K. schema.user names the column.",
    )
    epsilon: float = Field(8.0, ge=0.01, le=1000, description="Total per unit, over all steps of a run.")
    delta: float = Field(1e-5, ge=1e-10, lt=0.1, description="Total per unit, over all steps of a run.")
    shares: Shares = _defaults(Shares, "Budget by step.")
    randomness: Literal["secure", "seeded"] = Field(
        "secure", description="seeded is for tests: repeatable noise protects nobody, and is marked."
    )
    lifetime_epsilon: float | None = Field(
        None,
        gt=0,
        description="Budget of a record over all runs; none: lifetime_runs runs of the first configuration.",
    )
    lifetime_runs: int = Field(
        3,
        ge=1,
        le=1000,
        description="Without lifetime_epsilon, how many runs like its first a simulated block affords. Real "
        "owners set budgets themselves.",
    )

    @model_validator(mode="after")
    def _check_shares(self) -> PrivacySettings:
        self.shares.check()
        return self


class Config(_Strict):
    """A whole problem: what to learn, from what, by whom, at what price."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$", description="Name of the problem and its pipeline.")
    description: str = Field("", description="One line for people.")
    data: DataSettings = _defaults(DataSettings)
    data_schema: Schema = Field(alias="schema", description="Columns, label and key.")
    eval_fraction: float = Field(0.25, gt=0, lt=1, description="Part of the records kept for evaluation.")
    spans: SpanSettings = _defaults(SpanSettings)
    federation: FederationSettings = _defaults(FederationSettings)
    validation: ValidateSettings = _defaults(ValidateSettings)
    preprocess: PreprocessSettings = _defaults(PreprocessSettings)
    model: ModelSettings = _defaults(ModelSettings)
    training: TrainingSettings = _defaults(TrainingSettings)
    analyze: AnalyzeSettings = _defaults(AnalyzeSettings)
    privacy: PrivacySettings = _defaults(PrivacySettings)

    @model_validator(mode="after")
    def _check_spans(self) -> Config:
        time, named = self.data_schema.time, self.spans.names
        if time is None and self.spans != SpanSettings.model_validate({}):
            raise ValueError("expected schema.time for spans, found no column of dates: name it")
        wanted = named or ((self.spans.until,) if self.spans.until else None)
        if time is not None and wanted is not None:
            check_spans(wanted, time.window)
        return self

    @model_validator(mode="after")
    def _check_slices(self) -> Config:
        columns = self.data_schema.columns
        categories = [name for name, column in columns.items() if isinstance(column, CategoricalColumn)]
        slices = self.analyze.slices
        for name in slices:
            if name not in categories:
                raise ValueError(
                    f"expected categorical columns in analyze.slices, found {name!r}. "
                    f"{nearest(name, categories)}"
                )
        if len(set(slices)) < len(slices):
            raise ValueError("expected different columns in analyze.slices, found one twice")
        return self

    @model_validator(mode="after")
    def _check_unit(self) -> Config:
        user, declared = self.user_unit, self.data_schema.user
        if user is not None and user.column != declared:
            found = f"schema.user={declared}" if declared else "no schema.user"
            raise ValueError(
                f"expected schema.user to name the column of users, {user.column!r}, as privacy.unit does, "
                f"found {found}: set it"
            )
        return self

    @property
    def user_unit(self) -> UserUnit | None:
        """The user as the unit of privacy; None where it is a record."""
        return self.privacy.unit if isinstance(self.privacy.unit, UserUnit) else None

    @property
    def run_spans(self) -> tuple[str, ...]:
        """The spans of a run.

        Raises:
          ConfigError: there is a time column, and nobody has named them yet.
        """
        if self.data_schema.time is None:
            return (UNDATED,)
        if self.spans.names is None:
            raise ConfigError(
                "Expected spans.names, found none: a simulation takes them from its data, a coordinator from "
                "the clock."
            )
        return tuple(sorted(self.spans.names))
