"""What a table of records looks like: public knowledge that every client shares."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NumericColumn(_Strict):
    """A number with a public range; values outside count as the nearest bound."""

    type: Literal["numeric"] = "numeric"
    minimum: float = Field(allow_inf_nan=False, description="Smallest plausible value; public, not observed.")
    maximum: float = Field(allow_inf_nan=False, description="Largest plausible value; public, not observed.")
    normalize: Literal["standardize", "range"] = Field(
        "standardize",
        description="standardize: by a private mean and deviation; range: by the declared range, at no cost.",
    )
    aliases: tuple[str, ...] = Field((), description="Other names of the column in exports.")

    @model_validator(mode="after")
    def _check_range(self) -> NumericColumn:
        if self.minimum >= self.maximum:
            raise ValueError(f"expected minimum < maximum, found {self.minimum:g} and {self.maximum:g}")
        return self


class CategoricalColumn(_Strict):
    """A category: either one of a public vocabulary, or hashed into buckets."""

    type: Literal["categorical"]
    vocabulary: tuple[str, ...] = Field((), description="Public categories; anything else counts as OTHER.")
    hash_buckets: int | None = Field(
        None, ge=2, le=100_000, description="Number of hash buckets, when no vocabulary is public."
    )
    aliases: tuple[str, ...] = Field((), description="Other names of the column in exports.")

    @model_validator(mode="after")
    def _check_source(self) -> CategoricalColumn:
        if bool(self.vocabulary) == (self.hash_buckets is not None):
            raise ValueError("expected either a vocabulary or hash_buckets")
        if len({normalize_text(word) for word in self.vocabulary}) < len(self.vocabulary):
            raise ValueError("expected distinct words in the vocabulary, after lower-casing")
        return self


Column = Annotated[NumericColumn | CategoricalColumn, Field(discriminator="type")]


class Label(_Strict):
    """The column to predict and its public classes; the last of two is the positive one."""

    name: str
    classes: dict[str, tuple[str, ...]] = Field(
        min_length=2, description="Class name -> spellings that mean it (the name itself always does)."
    )
    aliases: tuple[str, ...] = Field((), description="Other names of the column in exports.")

    @property
    def names(self) -> tuple[str, ...]:
        """The class names, in the order of the model's outputs."""
        return tuple(self.classes)

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


class Schema(_Strict):
    """The columns of a problem. Exports may name them in other ways; see `aliases`."""

    version: str = Field("1", description="Declared by every client at ingest.")
    label: Label
    columns: dict[str, Column] = Field(min_length=1, description="Feature columns by canonical name.")
    key: str | None = Field(
        None,
        description="Column that identifies a record for ever. With a key, training and evaluation records have "
        "budgets of their own; without, all records of a client are one block.",
    )
    client_column: str | None = Field(None, description="Column that says which client holds a record.")
    missing_tokens: tuple[str, ...] = Field(
        ("", "na", "n/a", "nan", "null", "none"), description="Cells that mean 'no value', in any case."
    )

    @field_validator("columns")
    @classmethod
    def _check_names(cls, columns: Mapping[str, Column]) -> Mapping[str, Column]:
        for name in columns:
            if name != normalize_name(name):
                raise ValueError(f"expected a canonical name such as {normalize_name(name)!r}, found {name!r}")
        return columns

    @model_validator(mode="after")
    def _check_roles(self) -> Schema:
        roles = [name for name in (self.label.name, self.key, self.client_column) if name]
        for name in roles:
            if name in self.columns:
                raise ValueError(f"expected {name!r} in one role, found it among the feature columns too")
        if len(set(roles)) < len(roles):
            raise ValueError("expected label, key and client_column to be different columns")
        return self

    @property
    def num_classes(self) -> int:
        """The number of classes of the label."""
        return len(self.label.classes)

    def required(self) -> dict[str, tuple[str, ...]]:
        """Returns every column that a source must have, with its aliases."""
        wanted = {name: column.aliases for name, column in self.columns.items()}
        wanted[self.label.name] = self.label.aliases
        if self.key:
            wanted[self.key] = ()
        return wanted


def normalize_name(name: str) -> str:
    """Returns a column name in snake_case, without what surrounds it in exports.

    >>> normalize_name("Consumer disputed?")
    'consumer_disputed'
    """
    return re.sub(r"[^0-9a-z]+", "_", name.strip().lower()).strip("_")


def normalize_text(text: str) -> str:
    """Returns a cell in lower case, with single spaces: two spellings of one value agree.

    The served model does the same with TensorFlow's operations; only ASCII white space counts.

    >>> normalize_text("  Closed  with Relief ")
    'closed with relief'
    """
    return re.sub(r"[ \t\n\r\f\v]+", " ", text.lower()).strip(" ")
