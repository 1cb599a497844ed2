"""How a data store's records fall into blocks: fixed by the first run, for ever.

A record's budget belongs to the block that it falls into. If a later run could divide the
records in another way, by another key or date column, another window or another share of
evaluation records, then a record would meet a fresh budget in its new block. The ledger holds it,
beside the budgets.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from fedpipe.data import Schema
from fedpipe.federation.terms import RunTerms


class TimeDivision(BaseModel):
    """What decides a record's span. `names` are those under which the date column is looked for, in order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...]
    window: str
    formats: tuple[str, ...]


class Division(BaseModel):
    """What decides a record's span and split, besides the node's own key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str | None
    eval_fraction: float | None = None
    missing_tokens: tuple[str, ...] = ()
    time: TimeDivision | None = None
    user: str | None = None
    index: str | None = None
    names: tuple[tuple[str, str], ...] | None = None

    @classmethod
    def of(
        cls, terms: RunTerms, *, index: str | None = None, names: Sequence[tuple[str, str]] = ()
    ) -> Division:
        """Returns how `terms` divide records; without key, user and time all are one block for ever.

        `index` is the identity of the index of first spans: with another, records would be dated anew.
        `names` are what the owner's exports call columns; those that divide records count.
        """
        schema = terms.data_schema
        time, lasting = _time_division(schema), schema.has_lasting_splits
        dividing = {schema.key, schema.user, schema.time.column if schema.time else None}
        return cls(
            key=schema.key,
            eval_fraction=terms.eval_fraction if lasting else None,
            missing_tokens=schema.missing_tokens if lasting or time else (),
            time=time,
            user=schema.user,
            index=index,
            names=tuple(sorted(pair for pair in names if pair[0] in dividing)) or None,
        )

    def to_json(self) -> str:
        """Returns the text that the ledger compares; fields that came later are left out where unset."""
        later = {name for name in ("user", "index", "names") if getattr(self, name) is None}
        return self.model_dump_json(exclude=later)


def _time_division(schema: Schema) -> TimeDivision | None:
    time = schema.time
    if time is None:
        return None
    # A feature column has aliases of its own.
    names = (time.column, *schema.known()[time.column])
    return TimeDivision(names=names, window=time.window, formats=time.formats)
