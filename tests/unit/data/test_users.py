"""Users: at most k records of each, chosen by nobody else's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from fedpipe.data import Schema, Shard, open_shard
from fedpipe.data.statistics import label_counts, user_counts
from fedpipe.data.users import bound_contributions, rows_by_user
from fedpipe.errors import DataError

KEY = b"k" * 32
SCHEMA: dict[str, Any] = {
    "label": {"name": "ill", "classes": {"no": ["n"], "yes": ["y"]}},
    "key": "record_id",
    "user": "patient",
    "columns": {"age": {"type": "numeric", "minimum": 0, "maximum": 100}},
}
Row = tuple[str, str, str]  # record, patient, label


def rows(users: dict[str, int]) -> list[Row]:
    return [
        (f"{user or 'none'}-{n}", user, "y" if n % 2 else "n")
        for user, count in users.items()
        for n in range(count)
    ]


def shard_of(records: list[Row], path: Path, **changes: Any) -> Shard:
    lines = [f"{record},{user},{label},{20 + n % 50}" for n, (record, user, label) in enumerate(records)]
    path.write_text("\n".join(["record_id,patient,ill,age", *lines]) + "\n")
    schema = Schema.model_validate(SCHEMA | changes)
    return open_shard(path, schema, eval_fraction=0.4, split_key=KEY)


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Shard]:
    return lambda records, **changes: shard_of(records, tmp_path / "data.csv", **changes)


def bound(shard: Shard, max_records: int, key: bytes = KEY) -> Shard:
    return bound_contributions(shard, Schema.model_validate(SCHEMA), max_records=max_records, key=key)


def kept(shard: Shard) -> set[str]:
    return set(shard.frame["record_id"])


USERS = {"ann": 50, "bob": 2, "cyd": 7, "dan": 1}


def test_no_user_has_more_records_than_the_bound(read: Callable[..., Shard]) -> None:
    shard = bound(read(rows(USERS)), 3)
    assert Counter(shard.frame["patient"]) == {"ann": 3, "bob": 2, "cyd": 3, "dan": 1}


def test_the_choice_does_not_depend_on_other_users_or_on_the_file(read: Callable[..., Shard]) -> None:
    whole = kept(bound(read(rows(USERS)), 3))
    alone = kept(bound(read(rows({"ann": 50})), 3))
    shuffled = kept(bound(read(list(reversed(rows(USERS)))), 3))
    assert {record for record in whole if record.startswith("ann")} == alone
    assert shuffled == whole


def test_the_choice_is_secret_and_survives_an_amended_record(read: Callable[..., Shard]) -> None:
    shard = read(rows(USERS))
    assert kept(bound(shard, 3)) != kept(bound(shard, 3, key=b"z" * 32))
    shard.frame["age"] = "33"
    assert kept(bound(shard, 3)) == kept(bound(read(rows(USERS)), 3))


def test_labelled_records_come_first(read: Callable[..., Shard]) -> None:
    records = [(f"r{n}", "ann", "y" if n in (3, 17) else "?") for n in range(40)]
    assert kept(bound(read(records), 2)) == {"r3", "r17"}


def test_records_without_a_user_are_those_of_one(read: Callable[..., Shard]) -> None:
    records = rows({"": 30, "n/a": 5, "ann": 2})
    shard = bound(read(records), 4)
    assert Counter("ann" if user == "ann" else "none" for user in shard.frame["patient"]) == {
        "none": 4,
        "ann": 2,
    }


def test_all_records_of_a_user_are_in_one_split(read: Callable[..., Shard]) -> None:
    shard = read(rows({f"u{n}": 5 for n in range(60)}))
    assert shard.users is not None
    sides = {(int(user), bool(side)) for user, side in zip(shard.users, shard.is_eval, strict=True)}
    assert len(sides) == 60
    assert 0 < sum(side for _, side in sides) < 60


def test_a_user_moves_counts_of_labels_by_the_bound_and_of_users_by_one(read: Callable[..., Shard]) -> None:
    schema = Schema.model_validate(SCHEMA)
    with_ann, without = (bound(read(rows(users)), 3) for users in (USERS, {**USERS, "ann": 0}))
    moved = label_counts(with_ann, schema) - label_counts(without, schema)
    assert np.abs(moved).sum() == 3
    assert np.abs(user_counts(with_ann) - user_counts(without)).sum() == 1


def test_a_bound_left_out_is_seen(read: Callable[..., Shard]) -> None:
    """A planted bug: counts over all records move by more than their noise is for."""
    schema = Schema.model_validate(SCHEMA)
    moved = label_counts(read(rows(USERS)), schema) - label_counts(read(rows({**USERS, "ann": 0})), schema)
    assert np.abs(moved).sum() == 50


def test_users_are_counted_by_split_if_they_have_labels(read: Callable[..., Shard]) -> None:
    shard = read([*rows({f"u{n}": 3 for n in range(40)}), ("x", "unlabelled", "?")])
    assert user_counts(shard).sum() == 40
    assert user_counts(shard.train)[1] == 0


def test_rows_of_each_user_are_padded_with_her_own() -> None:
    rows = rows_by_user(np.array([5, 2, 5, 5, 9]), 3)
    assert rows.tolist() == [[1, -2, -2], [0, 2, 3], [4, -5, -5]]
    assert rows.dtype == np.int32
    assert rows_by_user(np.zeros(0, np.int64), 3).shape == (0, 3)


def test_a_user_with_too_many_rows_is_refused() -> None:
    with pytest.raises(DataError, match="at most 2 records of a user"):
        rows_by_user(np.array([1, 1, 1]), 2)


def test_a_schema_without_users_bounds_nobody(read: Callable[..., Shard]) -> None:
    shard = read(rows(USERS), user=None)
    assert shard.users is None
    for ask in (lambda: bound(shard, 1), lambda: user_counts(shard)):
        with pytest.raises(DataError, match=r"schema\.user"):
            ask()


@pytest.mark.parametrize("user", ["age", "ill", "record_id"])
def test_the_column_of_users_has_no_other_role(user: str) -> None:
    with pytest.raises(ValidationError, match="expected"):
        Schema.model_validate(SCHEMA | {"user": user})
