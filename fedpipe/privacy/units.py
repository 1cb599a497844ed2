"""Whom the guarantee is for: one record, or one user with all of her records at a client."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Unit = Literal["record", "user"]


class UserUnit(BaseModel):
    """In place of `record`, the default: a user, all records of a client with one value in `column`.

    No release reads more than `max_records` records of a user, over all spans of a run. All records without a
    user count as those of one user.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str = Field(min_length=1, description="Column that says whose record it is: schema.user.")
    max_records: int = Field(
        ge=1,
        le=1000,
        description="A release reads at most so many records of a user at a client. More keep more of the "
        "data and need as much more noise in every count.",
    )

    def __str__(self) -> str:
        """Returns what tells users apart, and what bounds them."""
        return f"told apart by {self.column}, at most {self.max_records} records of each in a release"
