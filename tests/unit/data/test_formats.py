"""Files as people export them: what is read, and what is refused with file and line but no cell."""

from __future__ import annotations

import codecs
import csv
import datetime as dt
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpipe.data.formats import detect_encoding
from fedpipe.data.readers import read_raw
from fedpipe.errors import DataError

SECRET = "S3CRET"  # stands for a person's data: no message may hold it


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(path: Path) -> list[list[str]]:
    frame = read_raw(path)
    return [list(frame.columns), *frame.to_numpy(dtype=object).tolist()]


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_raw(path)
    message = str(caught.value)
    assert path.name in message
    assert SECRET not in message
    assert SECRET not in repr(caught.value.__cause__)
    return message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a,b\n1,2\n", [["a", "b"], ["1", "2"]]),
        ("a,b\r\n1,2", [["a", "b"], ["1", "2"]]),
        ("a,b\r1,2\r", [["a", "b"], ["1", "2"]]),
        ("\ufeffa,b\n1,2\n", [["a", "b"], ["1", "2"]]),
        ('"a\nx",b\n"1,5","say ""hi""\r\nthere"\n', [["a\nx", "b"], ["1,5", 'say "hi"\r\nthere']]),
        ("\na,b\n\n1,2\n\n\n", [["a", "b"], ["1", "2"]]),
        ("a,b\nNA,\nnan,NULL\n", [["a", "b"], ["NA", ""], ["nan", "NULL"]]),
        ("a,a,\n1,2,3\n", [["a", "a", ""], ["1", "2", "3"]]),
        ('a,b\n 1 ,x"y\n', [["a", "b"], [" 1 ", 'x"y']]),
        ("a,b\n007,1e5\n", [["a", "b"], ["007", "1e5"]]),
        ("a,b\n", [["a", "b"]]),
        ("a,b", [["a", "b"]]),
        ("a,b\n1,a\x00b\n", [["a", "b"], ["1", "a\x00b"]]),
        ("a;b;c\n1,5;2;3\n", [["a", "b", "c"], ["1,5", "2", "3"]]),
        ("a, EUR;b;c\n1;2;x,y,z\n", [["a, EUR", "b", "c"], ["1", "2", "x,y,z"]]),
        ('"a;x";b\n"1;2";3\n', [["a;x", "b"], ["1;2", "3"]]),
        ("a\tb\n1;2\t3\n", [["a", "b"], ["1;2", "3"]]),
        ("a\n1;2\n", [["a"], ["1;2"]]),
    ],
)
def test_csv_cells_arrive_as_written(tmp_path: Path, content: str, expected: list[list[str]]) -> None:
    assert rows(write(tmp_path / "t.csv", content)) == expected


@settings(max_examples=50)
@given(
    st.lists(
        st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), min_size=2, max_size=2),
        min_size=2,
    )
)
def test_csv_round_trip(tmp_path_factory: pytest.TempPathFactory, table: list[list[str]]) -> None:
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, quoting=csv.QUOTE_ALL).writerows(table)
    assert rows(path) == table


@pytest.mark.parametrize("chunk_rows", [1, 2, 3])
def test_file_read_in_chunks_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_rows: int
) -> None:
    monkeypatch.setattr("fedpipe.data.formats.CHUNK_ROWS", chunk_rows)
    frame = read_raw(write(tmp_path / "t.csv", "a\n1\n2\n3\n4\n5\n"))
    assert frame["a"].tolist() == ["1", "2", "3", "4", "5"]
    assert frame.index.tolist() == [0, 1, 2, 3, 4]
    frame = read_raw(write(tmp_path / "t.jsonl", '{"a": 1}\n{"b": 2}\n{"a": 3}\n{"a": 4, "c": 5}'))
    assert frame.to_dict("list") == {"a": ["1", "", "3", "4"], "b": ["", "2", "", ""], "c": ["", "", "", "5"]}


@pytest.mark.parametrize(
    ("content", "line", "found"),
    [
        (f"a,b\n1,2,{SECRET}\n3,4\n", 2, 3),
        (f"a,b\n1,2,{SECRET}\n3,4,5\n", 2, 3),
        (f"a,b\n1,2\n{SECRET}\n", 3, 1),
        (f'a,b\n"1\n\n",2\n3,4,{SECRET}\n', 5, 3),
        (f"a,b\n\n1,2\n\n{SECRET},4,5\n", 5, 3),
    ],
)
def test_ragged_csv_row_names_file_and_line(tmp_path: Path, content: str, line: int, found: int) -> None:
    message = refusal(write(tmp_path / "t.csv", content))
    assert f"line {line}, found {found}" in message
    assert "Expected 2 fields" in message


@pytest.mark.parametrize(
    "content", [f'a,b\n1,2\n1,"{SECRET}\n3,4\n', f'a,b\n1,2\n"{SECRET}"x,2\n', f'a,b\n1,2\n1,"{SECRET}']
)
def test_broken_quote_names_the_line_where_its_record_starts(tmp_path: Path, content: str) -> None:
    assert "line 3" in refusal(write(tmp_path / "t.csv", content))


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_empty_file_says_so(tmp_path: Path, content: str, suffix: str) -> None:
    assert "empty file" in refusal(write(tmp_path / f"t{suffix}", content))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_encodings_are_told_apart(tmp_path: Path, suffix: str, encoding: str) -> None:
    lines = {".csv": "a,b\n1,2\né,“ß”\n", ".jsonl": '{"a": 1, "b": 2}\n{"a": "é", "b": "“ß”"}\n'}[suffix]
    frame = read_raw(write(tmp_path / f"t{suffix}", lines.encode(encoding)))
    assert list(frame.columns) == ["a", "b"]
    assert frame.iloc[1].tolist() == ["é", "“ß”"]


@pytest.mark.parametrize("mark", [codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
def test_utf_16_reads_in_either_order(tmp_path: Path, mark: bytes) -> None:
    order = "utf-16-le" if mark == codecs.BOM_UTF16_LE else "utf-16-be"
    assert rows(write(tmp_path / "t.csv", mark + "a\né\n".encode(order))) == [["a"], ["é"]]


def test_accents_beyond_the_first_megabyte_count(tmp_path: Path) -> None:
    late = "a\n" + "x\n" * 600_000
    assert detect_encoding(write(tmp_path / "t.csv", late + "é\n")) == "utf-8-sig"
    assert detect_encoding(write(tmp_path / "t.csv", (late + "é\n").encode("cp1252"))) == "cp1252"
    # A letter of two bytes across the border between two blocks.
    assert detect_encoding(write(tmp_path / "t.csv", "x" * ((1 << 20) - 1) + "é")) == "utf-8-sig"


@pytest.mark.parametrize("content", [b"a,b\n1,\x81" + SECRET.encode(), b"\xff\xfea\x00\x00\xd8b\x00"])
def test_bytes_that_no_encoding_explains_are_refused(tmp_path: Path, content: bytes) -> None:
    assert "save it as UTF-8" in refusal(write(tmp_path / "t.csv", content))


def test_json_cells_become_text(tmp_path: Path) -> None:
    lines = [
        {"a": "x", "b": 1},
        {"a": None, "b": 2.5, "c": True},
        {"c": {"k": [1]}, "b": 12345678901234567890},
    ]
    content = "\n\n".join(map(json.dumps, lines)) + '\n{"b": NaN}'
    assert rows(write(tmp_path / "t.JSONL", content)) == [
        ["a", "b", "c"],
        ["x", "1", ""],
        ["", "2.5", "True"],
        ["", "12345678901234567890", '{"k": [1]}'],
        ["", "", ""],
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f'{{"a": "{SECRET}"', "error at column 15"),
        (f'["{SECRET}"]', "a list"),
        (f'"{SECRET}"', "a str"),
        (f'{{"a": "{SECRET}\\ud800"}}', "surrogate"),
        (f'{{"{SECRET}\\ud800": 1}}', "surrogate"),
        (f'{{"a": {"9" * 5000}}}', "beyond all bounds"),
        (f'{{"a": {"[" * 100_000}}}', "beyond all bounds"),
    ],
)
def test_broken_json_names_file_and_line(tmp_path: Path, line: str, reason: str) -> None:
    message = refusal(write(tmp_path / "t.ndjson", '{"a": "x"}\n' + line + "\n"))
    assert "line 2" in message
    assert reason in message


def test_parquet_cells_of_any_type_become_text(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        "text": pa.array(["x", None, ""]),
        "large": pa.array(["é", "🙂", None], pa.large_string()),
        "whole": pa.array([1, None, 2**60], pa.int64()),
        "real": pa.array([0.1, float("nan"), -1.0]),
        "flag": pa.array([True, False, None]),
        "day": pa.array([dt.date(2013, 7, 29), None, None]),
        "money": pa.array([Decimal("1.50"), None, None]),
        "coded": pa.array(["p", "q", None]).dictionary_encode(),
        "bytes": pa.array([b"b", None, b""]),
        "nested": pa.array([{"k": 1}, None, {"k": 2}]),
        "nothing": pa.nulls(3),
    }
    pa.parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    frame = read_raw(tmp_path / "t.parquet")
    assert {name: frame[name].tolist() for name in frame.columns} == {
        "text": ["x", "", ""],
        "large": ["é", "🙂", ""],
        "whole": ["1", "", str(2**60)],
        "real": ["0.1", "", "-1.0"],
        "flag": ["True", "False", ""],
        "day": ["2013-07-29", "", ""],
        "money": ["1.50", "", ""],
        "coded": ["p", "q", ""],
        "bytes": ["b", "", ""],
        "nested": ['{"k": 1}', "", '{"k": 2}'],
        "nothing": ["", "", ""],
    }


def test_parquet_index_is_a_column_like_any_other(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": ["x"]}, index=pd.Index([7], name="record_id"))
    frame.to_parquet(tmp_path / "t.parquet")
    assert read_raw(tmp_path / "t.parquet")["record_id"].tolist() == ["7"]


def test_parquet_folder_name_adds_no_column(tmp_path: Path) -> None:
    (tmp_path / "company=acme").mkdir()
    path = tmp_path / "company=acme" / "t.parquet"
    pa.parquet.write_table(pa.table({"a": ["x"]}), path)
    assert list(read_raw(path).columns) == ["a"]


def test_parquet_keeps_columns_of_one_name_apart(tmp_path: Path) -> None:
    table = pa.table([pa.array(["x"]), pa.array([1])], names=["a", "a"])
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    assert rows(tmp_path / "t.parquet") == [["a", "a"], ["x", "1"]]


def test_parquet_without_rows_has_columns(tmp_path: Path) -> None:
    pa.parquet.write_table(pa.table({"a": pa.array([], pa.int64())}), tmp_path / "t.parquet")
    assert rows(tmp_path / "t.parquet") == [["a"]]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"a,b\n1,2\n", b"PAR1" + bytes(100) + b"PAR1"])
def test_what_is_no_parquet_is_refused(tmp_path: Path, content: bytes) -> None:
    assert "Expected a Parquet file" in refusal(write(tmp_path / "t.parquet", content))


def test_parquet_with_undecodable_text_is_refused(tmp_path: Path) -> None:
    broken = pa.array([SECRET.encode() + b"\xff"]).view(pa.string())
    pa.parquet.write_table(pa.table({"a": broken}), tmp_path / "text.parquet")
    pa.parquet.write_table(pa.table({"a": pa.array([b"\xff"])}), tmp_path / "bytes.parquet")
    refusal(tmp_path / "text.parquet")
    refusal(tmp_path / "bytes.parquet")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_file_that_is_not_there_says_so(tmp_path: Path, suffix: str) -> None:
    assert "found nothing" in refusal(tmp_path / f"absent{suffix}")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_folder_in_place_of_a_file_is_refused(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"t{suffix}").mkdir()
    refusal(tmp_path / f"t{suffix}")


@pytest.mark.parametrize("name", ["t.xlsx", "t.csv.gz", "t"])
def test_other_formats_are_refused(tmp_path: Path, name: str) -> None:
    assert ".csv, .jsonl, .ndjson, .parquet" in refusal(write(tmp_path / name, "a\n1\n"))
