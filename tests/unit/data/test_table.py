"""Records that do not fit in memory are the same records, and leave nothing behind."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import issparse

from fedpipe.data import PreprocessSettings, Schema, Shard, Transform, commitment, formats, open_shard
from fedpipe.data.inputs import dense_rows, encode_compactly
from fedpipe.data.profile import feature_counts
from fedpipe.data.statistics import column_health, label_counts
from fedpipe.data.table import Table, TableWriter
from fedpipe.data.transform import HashedFeature, NumericFeature, VocabularyFeature
from fedpipe.data.users import bound_contributions
from fedpipe.errors import DataError
from fedpipe.scratch import Scratch

KEY = b"k" * 32
NOWHERE = Scratch(memory_bytes=0)
NUMBER = NumericFeature(column="age", lower=0, upper=100, center=50, scale=10)
STATE = VocabularyFeature(column="state", words=("ca", "tx"))
COMPANY = HashedFeature(column="company", num_buckets=64, buckets=tuple(range(40)))


def written(frames: list[pd.DataFrame], scratch: Scratch = NOWHERE) -> Table:
    writer = TableWriter(scratch)
    for frame in frames:
        writer.add(frame)
    return writer.table()


@given(st.lists(st.lists(st.tuples(st.text(), st.text()), max_size=4), min_size=1, max_size=4), st.randoms())
def test_a_stored_table_has_the_cells_that_were_written(
    chunks: list[list[tuple[str, str]]], random: np.random.Generator
) -> None:
    frames = [pd.DataFrame(rows, columns=["a", "b"], dtype=str) for rows in chunks]
    rows = [row for chunk in chunks for row in chunk]
    stored = written(frames)
    assert stored.is_in_memory == (not rows)
    assert len(stored) == len(rows)
    assert [tuple(row) for row in stored.to_frame().to_numpy().tolist()] == rows
    for _ in range(2):  # of a selection too
        kept = np.array([random.random() < 0.6 for _ in rows], dtype=np.bool_)
        stored, rows = stored.select(kept), [row for row, keep in zip(rows, kept, strict=True) if keep]
        assert [cell for frame in stored.parts(["b"]) for cell in frame["b"]] == [row[1] for row in rows]


def test_a_table_is_stored_once_it_is_large() -> None:
    frames = [pd.DataFrame({"a": ["x" * 1000] * 10}, dtype=str)] * 6
    assert written(frames, Scratch(memory_bytes=10**6)).is_in_memory
    assert not written(frames, Scratch(memory_bytes=30_000)).is_in_memory


def test_a_stored_table_has_no_name(tmp_path: Path) -> None:
    table = written([pd.DataFrame({"a": ["secret"]}, dtype=str)], Scratch(directory=tmp_path, memory_bytes=0))
    assert not table.is_in_memory
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("memory_bytes", [0, 10**6])
def test_a_column_that_only_some_files_have_is_empty_in_the_others(
    tmp_path: Path, make_schema: Callable[..., Schema], memory_bytes: int
) -> None:
    schema = make_schema(client_column="hospital")
    (tmp_path / "one.csv").write_text("age,state,company,disputed\n1,CA,x,yes\n")
    (tmp_path / "two.csv").write_text("hospital,age,state,company,disputed\nnorth,2,CA,x,yes\n")
    shard = open_shard(
        [tmp_path / "one.csv", tmp_path / "two.csv"],
        schema,
        eval_fraction=0.3,
        split_key=KEY,
        scratch=Scratch(memory_bytes=memory_bytes),
    )
    assert shard.frame["hospital"].tolist() == ["", "north"]
    assert [len(frame) for frame in shard.table.parts(["hospital"])] == ([1, 1] if not memory_bytes else [2])
    assert commitment(shard, KEY)


def write(path: Path, count: int) -> Path:
    rows = [
        (
            str(n),
            str(n % 90),
            ("CA", "TX", "")[n % 3],
            f"Bank {n % 7}",
            f"a{n % 13}",
            ("yes", "no", "?")[n % 3],
        )
        for n in range(count)
    ]
    frame = pd.DataFrame(
        rows, columns=["record_id", "age", "state", "company", "account", "disputed"], dtype=str
    )
    match path.suffix:
        case ".csv":
            frame.to_csv(path, index=False)
        case ".parquet":
            frame.to_parquet(path, index=False, row_group_size=17)
        case _:
            lines = [json.dumps({k: v for k, v in row.items() if v}) for row in frame.to_dict("records")]
            path.write_text("\n".join(lines))
    return path


@pytest.fixture(params=[".csv", ".parquet", ".jsonl"])
def both(
    tmp_path: Path,
    make_schema: Callable[..., Schema],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Schema, Shard, Shard]:
    """The same records read in one piece, and in pieces of seven that lie in a file."""
    schema = make_schema(key="record_id", user="account")
    path = write(tmp_path / f"t{request.param}", 100)
    whole = open_shard(path, schema, eval_fraction=0.3, split_key=KEY)
    monkeypatch.setattr(formats, "CHUNK_ROWS", 7)
    pieces = open_shard(path, schema, eval_fraction=0.3, split_key=KEY, scratch=NOWHERE)
    assert whole.table.is_in_memory
    assert not pieces.table.is_in_memory
    return schema, whole, pieces


def test_a_shard_in_pieces_is_the_same_shard(both: tuple[Schema, Shard, Shard]) -> None:
    schema, whole, pieces = both
    bounded = [bound_contributions(shard, schema, max_records=3, key=KEY) for shard in (whole, pieces)]
    for one, other in [
        (whole, pieces),
        (whole.labelled_train, pieces.labelled_train),
        (bounded[0].labelled_eval, bounded[1].labelled_eval),
    ]:
        pd.testing.assert_frame_equal(one.frame, other.frame)
        for field in ("labels", "is_eval", "spans", "users"):
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
    assert commitment(whole, KEY) == commitment(pieces, KEY)


def test_counts_of_a_shard_in_pieces_are_the_same(both: tuple[Schema, Shard, Shard]) -> None:
    schema, *shards = both
    settings = PreprocessSettings()
    health, labels, features = (
        [count(shard) for shard in shards]
        for count in (
            lambda shard: column_health(shard, schema),
            lambda shard: label_counts(shard, schema),
            lambda shard: np.concatenate(feature_counts(shard.train.table, schema, settings)),
        )
    )
    for one, other in (health, labels, features):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("features", [(NUMBER, STATE), (NUMBER, STATE, COMPANY)], ids=["full", "sparse"])
def test_stored_inputs_are_the_same(
    both: tuple[Schema, Shard, Shard], features: tuple[NumericFeature, ...]
) -> None:
    _, whole, pieces = both
    transform = Transform(features=features, missing_tokens=("",))
    inputs = encode_compactly(transform, pieces.table, NOWHERE)
    assert issparse(inputs) == (COMPANY in features)
    assert isinstance(inputs.data if issparse(inputs) else inputs, np.memmap)
    expected = transform.encode(whole.frame)
    rows = np.array([99, 3, 3, 0, 57])
    for chosen in (slice(None), slice(5, 9), rows, rows[:0]):
        np.testing.assert_array_equal(dense_rows(inputs, chosen), expected[chosen])


def test_no_records_make_no_stored_inputs(make_frame: Callable[..., pd.DataFrame]) -> None:
    table = Table.of(make_frame(age=[], state=[], company=[]))
    for features in ((NUMBER, STATE), (NUMBER, STATE, COMPANY)):
        transform = Transform(features=features, missing_tokens=("",))
        assert encode_compactly(transform, table, NOWHERE).shape == (0, transform.num_features)


@pytest.mark.parametrize("features", [(NUMBER, STATE), (NUMBER, STATE, COMPANY)])
def test_a_full_disk_is_one_clear_error(
    make_frame: Callable[..., pd.DataFrame],
    features: tuple[NumericFeature, ...],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    frame = make_frame(age=["1"] * 9, state=["CA"] * 9, company=["x"] * 9)
    scratch = Scratch(directory=tmp_path, memory_bytes=0)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    transform = Transform(features=features, missing_tokens=())
    if COMPANY not in features:
        with pytest.raises(DataError, match=r"found: No space left on device\. Free some"):
            encode_compactly(transform, Table.of(frame), scratch)
    (tmp_path / "file").touch()
    nowhere = Scratch(directory=tmp_path / "file" / "scratch", memory_bytes=0)
    with pytest.raises(DataError, match=r"Expected room in .*scratch"):
        encode_compactly(transform, Table.of(frame), nowhere)
    with pytest.raises(DataError, match=r"Expected room in .*scratch"):
        written([frame], nowhere)


def test_wide_records_come_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "CHUNK_SIZE", 1000)
    frame = pd.DataFrame({"a": [os.urandom(50).hex() for _ in range(100)]}, dtype=str)
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pandas(frame), tmp_path / "t.parquet")
    for read, name in (
        (formats.read_csv, "t.csv"),
        (formats.read_json_lines, "t.jsonl"),
        (formats.read_parquet, "t.parquet"),
    ):
        chunks = list(read(tmp_path / name))
        assert max(map(len, chunks)) <= 11
        assert pd.concat(chunks)["a"].tolist() == frame["a"].tolist()
