"""Splits and commitments: functions of records, not of files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpipe.data import Schema, Shard, commitment, open_shard
from fedpipe.data.table import Table
from fedpipe.errors import DataError

Build = Callable[..., Schema]
Record = tuple[str, ...]
KEY = b"k" * 32
NAMES = ("record_id", "age", "state", "company", "disputed")


def make_records(count: int) -> list[Record]:
    states, labels = ("CA", "New York", "TX", ""), ("yes", "no", "")
    return [
        (str(1000 + n), str(20 + n % 60), states[n % 4], f"Bank {n % 7}", labels[n % 3]) for n in range(count)
    ]


def write_csv(path: Path, records: list[Record], names: tuple[str, ...] = NAMES) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([names, *records])
    return path


def read(path: Path, schema: Schema, fraction: float = 0.3, key: bytes = KEY) -> Shard:
    return open_shard(path, schema, eval_fraction=fraction, split_key=key)


def splits(shard: Shard, column: str = "record_id") -> dict[str, bool]:
    return dict(zip(shard.frame[column], shard.is_eval.tolist(), strict=True))


@pytest.fixture
def keyed(make_schema: Build) -> Schema:
    return make_schema(key="record_id")


@pytest.fixture
def keyless(make_schema: Build) -> Schema:
    return make_schema()


def shard_of(*rows: Record) -> Shard:
    frame = pd.DataFrame(list(rows), columns=[f"c{n}" for n in range(len(rows[0]))], dtype=str)
    return make_shard(frame, ["undated"] * len(rows))


def make_shard(frame: pd.DataFrame, spans: list[str]) -> Shard:
    size = len(frame)
    return Shard(
        table=Table.of(frame),
        labels=np.zeros(size, np.int64),
        is_eval=np.zeros(size, np.bool_),
        spans=np.array(spans, dtype=np.str_),
    )


def test_every_labelled_record_trains_or_evaluates(tmp_path: Path, keyed: Schema) -> None:
    shard = read(write_csv(tmp_path / "t.csv", make_records(300)), keyed)
    train, evaluation = shard.labelled_train, shard.labelled_eval
    assert len(train.labels) + len(evaluation.labels) == 200
    assert not set(train.frame["record_id"]) & set(evaluation.frame["record_id"])
    assert not train.is_eval.any()
    assert evaluation.is_eval.all()
    assert (train.labels >= 0).all()
    assert len(shard.train.labels) == (~shard.is_eval).sum()
    assert shard.labels[:3].tolist() == [1, 0, -1]


def test_evaluation_gets_its_fraction(tmp_path: Path, keyed: Schema) -> None:
    path = write_csv(tmp_path / "t.csv", make_records(4000))
    # Binomial: 0.25 +- 4 standard deviations of 0.0068.
    assert abs(read(path, keyed, 0.25).is_eval.mean() - 0.25) < 0.028
    assert not read(path, keyed, 0.0).is_eval.any()
    assert read(path, keyed, 1.0).is_eval.all()


def test_larger_fraction_only_adds_evaluation_records(tmp_path: Path, keyed: Schema) -> None:
    path = write_csv(tmp_path / "t.csv", make_records(500))
    few, many = read(path, keyed, 0.2).is_eval, read(path, keyed, 0.4).is_eval
    assert not (few & ~many).any()


@pytest.mark.parametrize("name", ["keyed", "keyless"])
def test_split_ignores_order_and_other_records(
    tmp_path: Path, request: pytest.FixtureRequest, name: str
) -> None:
    schema = request.getfixturevalue(name)
    records = make_records(200)
    whole = read(write_csv(tmp_path / "a.csv", records), schema)
    part = read(write_csv(tmp_path / "b.csv", records[::-2]), schema)
    assert part.is_eval.tolist() == whole.is_eval[::-2].tolist()
    assert 0 < part.is_eval.sum() < 100


def test_keyed_split_ignores_amendments(tmp_path: Path, keyed: Schema) -> None:
    records = make_records(100)
    amended: list[Record] = [(key, "99", "TX", "Other", "yes") for key, *_ in records]
    before = read(write_csv(tmp_path / "a.csv", records), keyed)
    after = read(write_csv(tmp_path / "b.csv", amended), keyed)
    assert splits(before) == splits(after)


def test_keyless_split_ignores_columns_beyond_the_schema(tmp_path: Path, make_schema: Build) -> None:
    schema = make_schema(client_column="hospital")
    records = make_records(100)
    longer: list[Record] = [(*record, "north", str(n)) for n, record in enumerate(records)]
    plain = read(write_csv(tmp_path / "a.csv", records), schema)
    extended = read(write_csv(tmp_path / "b.csv", longer, (*NAMES, "hospital", "note")), schema)
    assert plain.is_eval.tolist() == extended.is_eval.tolist()


@pytest.mark.parametrize("name", ["keyed", "keyless"])
def test_split_survives_export_to_another_format(
    tmp_path: Path, request: pytest.FixtureRequest, name: str
) -> None:
    schema = request.getfixturevalue(name)
    path = write_csv(tmp_path / "t.csv", make_records(200))
    expected = read(path, schema).is_eval.tolist()
    guessed = pd.read_csv(path)  # numbers become integers, gaps become NaN
    guessed.to_parquet(tmp_path / "t.parquet")
    guessed.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    guessed.astype({"record_id": float, "age": float}).to_csv(tmp_path / "floats.csv", index=False)
    guessed.astype({"record_id": float}).to_parquet(tmp_path / "floats.parquet")
    for export in ("t.parquet", "t.jsonl", "floats.csv", "floats.parquet"):
        assert read(tmp_path / export, schema).is_eval.tolist() == expected, export


def test_exact_duplicates_never_straddle(tmp_path: Path, keyless: Schema) -> None:
    records = make_records(60)
    shard = read(write_csv(tmp_path / "t.csv", records * 3), keyless, 0.5)
    thirds = shard.is_eval.reshape(3, 60)
    assert (thirds == thirds[0]).all()
    assert 0 < thirds[0].sum() < 60


def test_another_key_splits_anew(tmp_path: Path, keyed: Schema) -> None:
    path = write_csv(tmp_path / "t.csv", make_records(200))
    one, other = read(path, keyed, 0.5), read(path, keyed, 0.5, key=b"other" * 8)
    assert 50 < (one.is_eval != other.is_eval).sum() < 150


def test_no_records_are_a_shard(tmp_path: Path, keyed: Schema, keyless: Schema) -> None:
    path = write_csv(tmp_path / "t.csv", [])
    for schema in (keyed, keyless):
        shard = read(path, schema)
        assert len(shard.labels) == len(shard.labelled_train.labels) == len(shard.labelled_eval.labels) == 0
        assert len(commitment(shard, KEY)) == 64


def test_shard_without_its_key_column_is_refused(tmp_path: Path, keyed: Schema) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"age": 1, "state": "CA", "company": "x", "disputed": "no"}))
    with pytest.raises(DataError, match="'record_id'"):
        read(path, keyed)


def test_repr_shows_no_record(tmp_path: Path, keyed: Schema) -> None:
    shard = read(write_csv(tmp_path / "t.csv", make_records(3)), keyed)
    assert "Bank" not in repr(shard)


CELLS = st.text(alphabet="ab\x1f,:\"0'[] ", max_size=3)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=4), st.randoms())
def test_commitment_ignores_order(rows: list[Record], random: object) -> None:
    shuffled = sorted(rows, key=lambda _: random.random())  # type: ignore[attr-defined]
    assert commitment(shard_of(*rows), KEY) == commitment(shard_of(*shuffled), KEY)


@given(
    st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=3),
    st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=3),
)
def test_commitment_is_equal_only_for_equal_records(one: list[Record], other: list[Record]) -> None:
    equal = commitment(shard_of(*one), KEY) == commitment(shard_of(*other), KEY)
    assert equal == (sorted(one) == sorted(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([("a\x1fb", "c")], [("a", "b\x1fc")]),
        ([("a", "b")], [("b", "a")]),
        ([("a", "b")], [("a", "b"), ("a", "b")]),
        ([("a", "1")], [("a", "1.0")]),
        ([("a", "")], [("A", "")]),
    ],
)
def test_commitment_tells_records_apart(one: list[Record], other: list[Record]) -> None:
    assert commitment(shard_of(*one), KEY) != commitment(shard_of(*other), KEY)


def test_commitment_covers_column_names() -> None:
    shard = shard_of(("a", "b"))
    renamed = replace(shard, table=Table.of(shard.frame.set_axis(["c0", "c2"], axis=1)))
    assert commitment(shard, KEY) != commitment(renamed, KEY)


def test_commitment_under_another_key_differs() -> None:
    shard = shard_of(("a", "b"))
    assert commitment(shard, KEY) != commitment(shard, b"other" * 8)
    assert commitment(shard, KEY) == commitment(shard_of(("a", "b")), KEY)


@pytest.fixture
def dated(make_schema: Build) -> Schema:
    return make_schema(key="record_id", time={"column": "received", "window": "month"})


DATES = ("2026-01-31", "02/01/2026", "2026-02-28T23:59:59-11:00", "", "soon", "31/12/2026", "2026-3-1")


def test_a_span_is_that_of_the_date_cell_alone(tmp_path: Path, dated: Schema) -> None:
    records = [(*record, date) for record, date in zip(make_records(7), DATES, strict=True)]
    names = (*NAMES, "Received")
    shard = read(write_csv(tmp_path / "t.csv", records, names), dated)
    expected = ["2026-01", "2026-02", "2026-02", "undated", "undated", "undated", "undated"]
    assert shard.spans.tolist() == expected
    alone = [read(write_csv(tmp_path / f"{n}.csv", [r], names), dated) for n, r in enumerate(records)]
    assert [one.spans.tolist()[0] for one in alone] == expected
    assert shard.labelled_train.spans.tolist() == [
        span
        for span, held, label in zip(expected, shard.is_eval, shard.labels, strict=True)
        if not held and label >= 0
    ]


def test_a_span_survives_export_to_another_format(tmp_path: Path, dated: Schema) -> None:
    dates = ["2026-01-31", "2026-02-01", "", "2025-12-31"] * 5
    path = write_csv(
        tmp_path / "t.csv",
        [(*record, date) for record, date in zip(make_records(20), dates, strict=True)],
        (*NAMES, "received"),
    )
    expected = read(path, dated).spans.tolist()
    guessed = pd.read_csv(path, parse_dates=["received"])
    guessed.to_parquet(tmp_path / "t.parquet")
    guessed.assign(received=guessed["received"].dt.tz_localize("UTC")).to_parquet(tmp_path / "zone.parquet")
    guessed.assign(received=guessed["received"].dt.date).to_parquet(tmp_path / "date.parquet")
    guessed.to_json(tmp_path / "t.jsonl", orient="records", lines=True, date_format="iso")
    guessed.to_csv(tmp_path / "t2.csv", date_format="%m/%d/%Y", index=False)
    for export in ("t.parquet", "zone.parquet", "date.parquet", "t.jsonl", "t2.csv"):
        assert read(tmp_path / export, dated).spans.tolist() == expected, export


def test_without_a_time_column_all_records_are_undated(tmp_path: Path, keyed: Schema) -> None:
    shard = read(write_csv(tmp_path / "t.csv", make_records(3)), keyed)
    assert shard.spans.tolist() == ["undated"] * 3


def test_a_missing_token_is_no_date(tmp_path: Path, make_schema: Build) -> None:
    schema = make_schema(time={"column": "received"}, missing_tokens=["", "1900-01-01"])
    records = [("1", "2", "CA", "x", "yes", date) for date in ("1900-01-01", "1900-01-02")]
    shard = read(write_csv(tmp_path / "t.csv", records, (*NAMES, "received")), schema)
    assert shard.spans.tolist() == ["undated", "1900-01"]


def test_a_shard_within_spans_holds_no_other_records() -> None:
    frame = pd.DataFrame({"c": ["a", "b", "c", "d"]})
    shard = make_shard(frame, ["2026-01", "2026-02", "undated", "2026-01"])
    assert shard.within(["2026-01"]).frame["c"].tolist() == ["a", "d"]
    assert shard.within(["2026-01", "2025-01", "2026-02"]).frame["c"].tolist() == ["a", "b", "d"]
    assert len(shard.within(["2027-01"]).labels) == 0


def test_each_span_is_committed_to_alone() -> None:
    frame = pd.DataFrame({"c": ["a", "b", "c"]})
    before = make_shard(frame, ["2026-01", "2026-02", "2026-02"])
    after = make_shard(frame.assign(c=["a", "b", "changed"]), ["2026-01", "2026-02", "2026-02"])
    for span, same in (("2026-01", True), ("2026-02", False)):
        assert (commitment(before, KEY, span=span) == commitment(after, KEY, span=span)) is same


def test_an_empty_span_does_not_look_empty() -> None:
    """No two spans share a commitment, with or without records, and none can be told without the key."""
    shard = make_shard(pd.DataFrame({"c": ["a", "a"]}), ["2026-01", "2026-02"])
    spans = ["2026-01", "2026-02", "2026-03", "2026-04"]
    found = [commitment(shard, key, span=span) for key in (KEY, b"other" * 8) for span in spans]
    assert len(set(found)) == len(found)
    assert {len(each) for each in found} == {64}
