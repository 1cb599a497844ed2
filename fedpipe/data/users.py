"""Users: what one person may add to a release, when the guarantee is for all of her records at once.

A user's records at a client may be many. Every release reads at most k of them, over all spans of a
run and both labels known or not, so she changes any histogram by k at most, and her gradient is a sum
over k records at most. Which ones are read is a function of her own records and the client's secret
key alone: no other user's record has a say in it.
"""

from __future__ import annotations

import hmac

import numpy as np
from numpy.typing import NDArray

from fedpipe.data.schema import Schema
from fedpipe.data.shard import Shard, record_identities
from fedpipe.errors import DataError


def bound_contributions(shard: Shard, schema: Schema, *, max_records: int, key: bytes) -> Shard:
    """Returns the shard of at most `max_records` records of each user; what it keeps is in the old order.

    Labelled records come first, since nothing is learned from others; among these, a keyed hash of the
    record decides. It looks at the record's key, so an export in another order, or an amended record, changes
    no choice.

    Raises:
      DataError: the schema names no users.
    """
    if shard.users is None:
        raise DataError("Expected schema.user for a guarantee to users, found none: name the column.")
    order = [
        int.from_bytes(hmac.digest(key, b"contribution:" + identity.encode(), "sha256")[:8], "big")
        for frame in shard.table.parts()
        for identity in record_identities(frame, schema)
    ]
    sequence = np.lexsort((np.array(order, dtype=np.uint64), shard.labels < 0, shard.users))
    kept = np.zeros(len(shard.users), dtype=np.bool_)
    kept[sequence] = _places(shard.users[sequence]) < max_records
    return shard.select(kept)


def rows_by_user(users: NDArray[np.int64], max_records: int) -> NDArray[np.int32]:
    """Returns int32 (num_users, max_records): every user's row numbers.

    Where a user has fewer, the rest of her row is padded with -1 - r, r being a row number of hers.

    Args:
      users: int64 (n,), alike where rows are one user's; at most `max_records` of each.
      max_records: the width.

    Raises:
      DataError: a user has more rows. It must not leave the client.
    """
    sequence = np.argsort(users, kind="stable")
    places = _places(users[sequence])
    if (places >= max_records).any():
        raise DataError(f"Expected at most {max_records} records of a user, found more.")
    first = sequence[places == 0].astype(np.int32)
    rows = np.repeat(-1 - first[:, np.newaxis], max_records, axis=1)
    rows[np.cumsum(places == 0) - 1, places] = sequence
    return rows


def _places(users: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns int64 (n,): how many of the same user come before, in an array that is sorted by users."""
    starts = np.flatnonzero(np.diff(users, prepend=-1))
    counts = np.diff(starts, append=len(users))
    return np.arange(len(users)) - np.repeat(starts, counts)
