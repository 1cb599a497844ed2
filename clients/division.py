"""How a data store's records fall into blocks: fixed by the first run, for ever.

A record's budget belongs to the block that it falls into. If a later run could divide the
records in another way, by another key column or another share of evaluation records, then a
record would meet a fresh budget in its new block. The ledger holds it, beside the budgets.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from fedpipe.federation.terms import RunTerms


class Division(BaseModel):
    """What decides a record's split, besides the node's own key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str | None
    eval_fraction: float | None = None
    missing_tokens: tuple[str, ...] = ()

    @classmethod
    def of(cls, terms: RunTerms) -> Division:
        """Returns how `terms` divide records; without a key all are one block, whatever else changes."""
        schema = terms.data_schema
        if schema.key is None:
            return cls(key=None)
        return cls(key=schema.key, eval_fraction=terms.eval_fraction, missing_tokens=schema.missing_tokens)
