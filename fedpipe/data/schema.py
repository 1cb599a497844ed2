"""What a table of records looks like: public knowledge that every client shares."""

from __future__ import annotations

import keyword
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from fedpipe.data.spans import ISO, Window, check_formats
from fedpipe.encoding.text import normalize_name, normalize_text

# Fourth powers of numbers and ranges within these stay finite and above zero in float64.
LARGEST_NUMBER = 1e50
SMALLEST_RANGE = 1e-50


def _check_name(name: str) -> str:
    if not name or not name.isascii() or name != normalize_name(name):
        example = normalize_name(name.encode("ascii", "ignore").decode()) or "column_1"
        raise ValueError(f"expected a canonical name such as {example!r}, found {name!r}")
    return name


def _check_feature_name(name: str) -> str:
    # Parameters of the served model's signature.
    if not name.isidentifier() or keyword.iskeyword(name) or name == "self":
        raise ValueError(
            f"expected a feature name that can name a parameter, such as 'column_{name}' "
            f"with aliases [{name}], found {name!r}"
        )
    return name


def _check_alias(name: str) -> str:
    if not normalize_name(name):
        raise ValueError(f"expected a letter or a digit in an alias, found {name!r}")
    return name


Name = Annotated[str, AfterValidator(_check_name)]
FeatureName = Annotated[Name, AfterValidator(_check_feature_name)]
Alias = Annotated[str, AfterValidator(_check_alias)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NumericColumn(_Strict):
    """A number with a public range; values outside count as the nearest bound."""

    type: Literal["numeric"] = "numeric"
    minimum: float = Field(
        ge=-LARGEST_NUMBER, le=LARGEST_NUMBER, description="Smallest plausible value; public, not observed."
    )
    maximum: float = Field(
        ge=-LARGEST_NUMBER, le=LARGEST_NUMBER, description="Largest plausible value; public, not observed."
    )
    normalize: Literal["standardize", "range"] = Field(
        "standardize",
        description="standardize: by a private mean and deviation; range: by the declared range, at no cost.",
    )
    aliases: tuple[Alias, ...] = Field((), description="Other names of the column in exports.")
    optional: bool = Field(False, description="An export without the column reads as one of missing values.")

    @model_validator(mode="after")
    def _check_range(self) -> NumericColumn:
        if self.minimum >= self.maximum:
            raise ValueError(f"expected minimum < maximum, found {self.minimum:g} and {self.maximum:g}")
        blur = 1e-9 * max(abs(self.minimum), abs(self.maximum))
        if self.maximum - self.minimum < max(blur, SMALLEST_RANGE):
            raise ValueError(f"expected a wider range: rounding blurs {self.minimum:g} to {self.maximum:g}")
        return self


class CategoricalColumn(_Strict):
    """A category: either one of a public vocabulary, or hashed into buckets."""

    type: Literal["categorical"]
    vocabulary: tuple[str, ...] = Field((), description="Public categories; anything else counts as OTHER.")
    hash_buckets: int | None = Field(
        None, ge=2, le=100_000, description="Number of hash buckets, when no vocabulary is public."
    )
    aliases: tuple[Alias, ...] = Field((), description="Other names of the column in exports.")
    optional: bool = Field(False, description="An export without the column reads as one of missing values.")

    @model_validator(mode="after")
    def _check_source(self) -> CategoricalColumn:
        if bool(self.vocabulary) == (self.hash_buckets is not None):
            raise ValueError("expected either a vocabulary or hash_buckets")
        if len({normalize_text(word) for word in self.vocabulary}) < len(self.vocabulary):
            raise ValueError("expected distinct words in the vocabulary, after lower-casing")
        return self


class TextColumn(_Strict):
    """Free text as hashed n-grams: which of them occur, to unit length. Costs no privacy to prepare."""

    type: Literal["text"]
    hash_buckets: int = Field(1024, ge=2, le=100_000, description="Number of hash buckets.")
    ngrams: int = Field(2, ge=1, le=4, description="Longest n-gram, in words.")
    aliases: tuple[Alias, ...] = Field((), description="Other names of the column in exports.")
    optional: bool = Field(False, description="An export without the column reads as one of missing values.")


class ImageColumn(_Strict):
    """A picture: height x width x channels bytes in URL-safe base64 without padding, scaled to [0, 1]."""

    type: Literal["image"]
    height: int = Field(ge=1, le=4096, description="Rows of pixels.")
    width: int = Field(ge=1, le=4096, description="Columns of pixels.")
    channels: int = Field(1, ge=1, le=4, description="Bytes for each pixel.")
    aliases: tuple[Alias, ...] = Field((), description="Other names of the column in exports.")
    optional: bool = Field(False, description="An export without the column reads as one of missing values.")

    @property
    def num_bytes(self) -> int:
        """Bytes of a picture."""
        return self.height * self.width * self.channels


class EmbeddingColumn(_Strict):
    """A vector of numbers separated by spaces; or text, whose sentence embedding the client computes."""

    type: Literal["embedding"]
    size: int = Field(512, ge=1, le=4096, description="Numbers in the vector; 512 for sentence embeddings.")
    aliases: tuple[Alias, ...] = Field(
        (), description="Other names of the column in exports, that of the text it stands for among them."
    )
    optional: bool = Field(False, description="An export without the column reads as one of missing values.")


Column = Annotated[
    NumericColumn | CategoricalColumn | TextColumn | ImageColumn | EmbeddingColumn,
    Field(discriminator="type"),
]


class Label(_Strict):
    """The column to predict and its public classes; the last of two is the positive one."""

    name: Name = Field(description="Canonical name of the column to predict.")
    classes: dict[str, tuple[str, ...]] = Field(
        min_length=2, description="Class name -> spellings that mean it (the name itself always does)."
    )
    missing: Literal["unknown", "negative"] = Field(
        "unknown",
        description="What an empty cell means: no label; or, where exports write Yes or nothing, class one.",
    )
    positive_above: float | None = Field(
        None,
        description="For a numeric label: numbers above are the second of two classes, others the first.",
    )
    aliases: tuple[Alias, ...] = Field((), description="Other names of the column in exports.")

    @property
    def names(self) -> tuple[str, ...]:
        """The class names, in the order of the model's outputs."""
        return tuple(self.classes)

    @model_validator(mode="after")
    def _check_threshold(self) -> Label:
        if len(self.classes) != 2 and (self.positive_above is not None or self.missing == "negative"):
            raise ValueError("expected two classes for positive_above or missing: negative")
        return self

    @model_validator(mode="after")
    def _check_spellings(self) -> Label:
        spellings = [spelling for spelling, _ in self.spellings()]
        if len(set(spellings)) < len(spellings):
            raise ValueError("expected every spelling to mean one class")
        return self

    def spellings(self) -> list[tuple[str, int]]:
        """Returns every normalised spelling with the index of its class."""
        pairs = {
            (normalize_text(word), index)
            for index, (name, words) in enumerate(self.classes.items())
            for word in (name, *words)
        }
        return sorted(pairs)


class TimeColumn(_Strict):
    """The column whose date decides a record's span, hence its budget. It may be a feature as well."""

    column: Name = Field(
        description="Canonical name of the column: a date that never changes, such as that of receipt."
    )
    window: Window = Field("month", description="What a span is: a day, an ISO week, a month, and so on.")
    formats: tuple[str, ...] = Field(
        (ISO, "%m/%d/%Y"),
        min_length=1,
        description="How dates are written, tried in order: iso (time and zone are ignored) or numeric "
        "directives as in Python's strptime. What fits none is undated.",
    )
    aliases: tuple[Alias, ...] = Field((), description="Other names of the column in exports.")

    @model_validator(mode="after")
    def _check_formats(self) -> TimeColumn:
        check_formats(self.formats, self.window)
        return self


class Schema(_Strict):
    """The columns of a problem. Exports may name them in other ways; see `aliases`."""

    version: str = Field("1", description="Declared by every client at ingest.")
    label: Label
    columns: dict[FeatureName, Column] = Field(min_length=1, description="Feature columns by canonical name.")
    key: Name | None = Field(
        None,
        description="Column that identifies a record for ever. With a key (or user), training and evaluation "
        "records have budgets of their own; without, all records of a client are one block.",
    )
    time: TimeColumn | None = Field(
        None,
        description="With it, each window of time has budgets of its own, and a run uses the spans that "
        "`spans` says; without, all records lie in one span.",
    )
    client_column: Name | None = Field(None, description="Column that says which client holds a record.")
    user: Name | None = Field(
        None,
        description="Column that says whose record it is, for ever; never a feature. All records of a user "
        "are on one side, training or evaluation, and privacy.unit can protect all of them at once. Records "
        "without a user count as those of one user.",
    )
    missing_tokens: tuple[str, ...] = Field(
        ("", "na", "n/a", "nan", "null", "none"), description="Cells that mean 'no value', in any case."
    )

    @model_validator(mode="after")
    def _check_roles(self) -> Schema:
        roles = [name for name in (self.label.name, self.key, self.client_column, self.user) if name]
        for name in roles:
            if name in self.columns:
                raise ValueError(f"expected {name!r} in one role, found it among the feature columns too")
        if self.time:
            roles.append(self.time.column)
        if len(set(roles)) < len(roles):
            raise ValueError("expected label, key, time, client_column and user to be different columns")
        if self.time and self.time.aliases and self.time.column in self.columns:
            raise ValueError(
                f"expected the aliases of {self.time.column!r} with its feature column, found some at time"
            )
        return self

    @model_validator(mode="after")
    def _check_aliases(self) -> Schema:
        owners = {self.client_column: self.client_column} if self.client_column else {}
        for owner, aliases in self.known().items():
            for name in map(normalize_name, (owner, *aliases)):
                if owners.setdefault(name, owner) != owner:
                    raise ValueError(
                        f"expected {name!r} to mean one column, found {owners[name]!r} and {owner!r}"
                    )
        return self

    @model_validator(mode="after")
    def _check_vocabularies(self) -> Schema:
        missing = {normalize_text(token) for token in self.missing_tokens}
        for name, column in self.columns.items():
            words = column.vocabulary if isinstance(column, CategoricalColumn) else ()
            for word in words:
                if normalize_text(word) in missing:
                    raise ValueError(
                        f"expected no missing_tokens in the vocabulary of {name!r}, found {word!r}"
                    )
        return self

    @property
    def num_classes(self) -> int:
        """The number of classes of the label."""
        return len(self.label.classes)

    @property
    def has_lasting_splits(self) -> bool:
        """Whether a cell that never changes says if a record trains or evaluates."""
        return self.key is not None or self.user is not None

    def known(self) -> dict[str, tuple[str, ...]]:
        """Returns every column that a source may have, with its aliases."""
        wanted = {name: column.aliases for name, column in self.columns.items()}
        wanted[self.label.name] = self.label.aliases
        for name in (self.key, self.user):
            if name:
                wanted[name] = ()
        if self.time:
            wanted.setdefault(self.time.column, self.time.aliases)
        return wanted

    def optional(self) -> set[str]:
        """Returns the columns that a source may lack."""
        return {name for name, column in self.columns.items() if column.optional}
