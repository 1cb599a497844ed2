"""Columns under canonical names, whatever the export calls them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from fedpipe.data import Schema
from fedpipe.data.cells import normalize_cells
from fedpipe.data.readers import check_header, find_files, read_features, read_table, select_columns
from fedpipe.errors import DataError

Build = Callable[..., Schema]
NUMBER = {"type": "numeric", "minimum": 0, "maximum": 100}
HEADER = "Age, STATE ,Company?,Disputed"
ROW = "30,CA,Acme,yes"


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_header_is_normalised_and_other_columns_dropped(tmp_path: Path, make_schema: Build) -> None:
    path = write(tmp_path / "t.csv", "," + HEADER, "0," + ROW)
    frame = read_table(path, make_schema())
    assert frame.to_dict("list") == {"age": ["30"], "state": ["CA"], "company": ["Acme"], "disputed": ["yes"]}


def test_aliases_name_columns_of_other_exports(tmp_path: Path, make_schema: Build) -> None:
    columns = {"company": {"type": "categorical", "hash_buckets": 8, "aliases": ["Firm name", "Größe"]}}
    schema = make_schema(columns=columns)
    for header in ("FIRM_NAME,disputed", "größe,disputed", "company,disputed"):
        assert read_table(write(tmp_path / "t.csv", header, "x,no"), schema)["company"].tolist() == ["x"]


def test_canonical_name_wins_over_an_alias(tmp_path: Path, make_schema: Build) -> None:
    schema = make_schema(columns={"company": {"type": "categorical", "hash_buckets": 8, "aliases": ["firm"]}})
    path = write(tmp_path / "t.csv", "firm,company,disputed", "x,y,no")
    assert read_table(path, schema)["company"].tolist() == ["y"]


def test_an_owner_may_call_columns_otherwise(tmp_path: Path, make_schema: Build) -> None:
    path = tmp_path / "t.csv"
    path.write_text("Vorgangs-Nr.;ALTER;krank\n1;30;y\n")
    schema = make_schema(
        key="record_id",
        label={"name": "ill", "classes": {"no": ["n"], "yes": ["y"]}},
        columns={"age": {"type": "numeric", "minimum": 0, "maximum": 120}},
    )
    names = [("record_id", "Vorgangs Nr"), ("age", "alter"), ("ill", "krank"), ("of_another_problem", "x")]

    frame = read_table(path, schema, names)

    assert frame.to_dict("records") == [{"record_id": "1", "age": "30", "ill": "y"}]


def test_missing_column_names_the_nearest(tmp_path: Path, make_schema: Build) -> None:
    path = write(tmp_path / "t.csv", "age,state,compny,disputed", ROW)
    for read in (read_table, check_header):
        with pytest.raises(DataError, match=r"'company' in t\.csv, found none\. Did you mean compny\?"):
            read(path, make_schema())


def test_record_in_place_of_the_header_is_not_printed(tmp_path: Path, make_schema: Build) -> None:
    path = write(tmp_path / "t.csv", "41,Springfield,Initech,maybe", ROW)
    with pytest.raises(DataError, match="None of its 4 names is close: is the first line a header") as caught:
        read_table(path, make_schema())
    assert "Initech" not in str(caught.value)


@pytest.mark.parametrize("double", ["age", " AGE?", "Age."])
def test_needed_column_that_occurs_twice_is_refused(tmp_path: Path, make_schema: Build, double: str) -> None:
    path = write(tmp_path / "t.csv", f"{HEADER},{double}", f"{ROW},31")
    for read in (read_table, check_header):
        with pytest.raises(DataError, match=r"one column 'age' in t\.csv, found 2"):
            read(path, make_schema())


def test_other_columns_may_occur_twice(tmp_path: Path, make_schema: Build) -> None:
    path = write(tmp_path / "t.csv", f"{HEADER},note,Note,,", f"{ROW},a,b,,")
    assert read_table(path, make_schema()).shape == (1, 4)


def test_client_column_is_kept_where_it_exists(tmp_path: Path, make_schema: Build) -> None:
    schema = make_schema(client_column="hospital")
    with_it = write(tmp_path / "a.csv", HEADER + ",Hospital", ROW + ",north")
    without = write(tmp_path / "b.csv", HEADER, ROW)
    assert read_table(with_it, schema)["hospital"].tolist() == ["north"]
    assert "hospital" not in read_table(without, schema).columns


def test_header_alone_gives_no_records(tmp_path: Path, make_schema: Build) -> None:
    frame = read_table(write(tmp_path / "t.csv", HEADER), make_schema())
    assert list(frame.columns) == ["age", "state", "company", "disputed"]
    assert len(frame) == 0


def test_header_check_reads_no_records(tmp_path: Path, make_schema: Build) -> None:
    check_header(write(tmp_path / "t.csv", HEADER, "ragged"), make_schema())


def test_header_check_takes_every_format(
    tmp_path: Path, make_schema: Build, make_frame: Callable[..., pd.DataFrame]
) -> None:
    frame = make_frame(age=["1"], state=["x"], company=["y"], disputed=["no"])
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    for name in ("t.parquet", "t.jsonl"):
        check_header(tmp_path / name, make_schema())
        with pytest.raises(DataError, match="'town'"):
            check_header(tmp_path / name, make_schema(columns={"town": {"type": "text"}}))
    with pytest.raises(DataError, match=r"\.csv, "):
        check_header(tmp_path / "t.txt", make_schema())


def test_frame_with_numbered_columns_lacks_names(make_schema: Build) -> None:
    with pytest.raises(DataError, match="'age' in memory"):
        select_columns(pd.DataFrame([["30", "CA"]]), make_schema(client_column="bank"), "memory")


def test_header_check_leaves_an_absent_key_to_the_population(tmp_path: Path, make_schema: Build) -> None:
    path = write(tmp_path / "t.csv", HEADER, ROW)
    check_header(path, make_schema(key="record_id"))
    with pytest.raises(DataError, match="'record_id'"):
        read_table(path, make_schema(key="record_id"))


def test_features_need_neither_label_nor_key(tmp_path: Path, make_schema: Build) -> None:
    columns = {
        "company": {"type": "categorical", "hash_buckets": 8, "aliases": ["firm"]},
        "age": {"type": "numeric", "minimum": 0, "maximum": 100},
        "story": {"type": "text", "optional": True},
    }
    path = write(tmp_path / "t.csv", "Age,Firm", "30,Acme")
    frame = read_features(path, make_schema(columns=columns, key="record_id"))
    assert frame.to_dict("list") == {"company": ["Acme"], "age": ["30"], "story": [""]}


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_absent_optional_column_reads_as_missing(
    tmp_path: Path, suffix: str, make_schema: Build, make_frame: Callable[..., pd.DataFrame]
) -> None:
    schema = make_schema(
        columns={"age": NUMBER, "story": {"type": "text", "aliases": ["Tale"], "optional": True}}
    )
    frame = make_frame(age=["1"], disputed=["no"], TALE=["once"])
    for columns, story in [(["age", "disputed", "TALE"], "once"), (["age", "disputed"], "")]:
        path = tmp_path / f"t.{suffix}"
        chosen = frame[columns]
        if suffix == "csv":
            chosen.to_csv(path, index=False)
        elif suffix == "jsonl":
            chosen.to_json(path, orient="records", lines=True)
        else:
            chosen.to_parquet(path)
        check_header(path, schema)
        assert read_table(path, schema)["story"].tolist() == [story]


def test_optional_column_named_twice_is_refused(tmp_path: Path, make_schema: Build) -> None:
    schema = make_schema(columns={"age": NUMBER, "story": {"type": "text", "optional": True}})
    with pytest.raises(DataError, match="found 2"):
        read_table(write(tmp_path / "t.csv", "age,disputed,Story,story?", "1,no,a,b"), schema)


def test_folder_stands_for_its_data_files(tmp_path: Path) -> None:
    for name in ("b.csv", "a.PARQUET", "c.jsonl", "notes.txt", ".hidden.csv"):
        write(tmp_path / name, "x")
    (tmp_path / "d.csv").mkdir()
    assert [path.name for path in find_files([tmp_path])] == ["a.PARQUET", "b.csv", "c.jsonl"]


def test_file_named_twice_counts_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "x")
    assert find_files([path, tmp_path, path]) == [path]


def test_paths_without_data_are_refused(tmp_path: Path) -> None:
    for path, found in [
        (tmp_path, "found none"),
        (tmp_path / "absent.csv", "found nothing"),
        (write(tmp_path / "a.txt", "x"), r"found a\.txt"),
    ]:
        with pytest.raises(DataError, match=found):
            find_files([path])


@pytest.mark.parametrize(
    ("name", "num_rows", "unknown"),
    [
        ("complaints_2013_2016.csv", 3186, 57),
        ("complaints_2013_full_schema.csv", 1000, 0),
        ("complaints_with_narratives.csv", 2000, 1058),
    ],
)
def test_complaints_of_all_years_are_read(
    shared_data: Path, make_schema: Build, name: str, num_rows: int, unknown: int
) -> None:
    schema = make_schema(
        label={"name": "consumer_disputed", "classes": {"no": [], "yes": []}},
        columns={
            "product": {"type": "categorical", "hash_buckets": 50},
            "zip_code": {"type": "categorical", "hash_buckets": 50, "aliases": ["zipcode"]},
        },
        client_column="company",
    )
    path = shared_data / "complaints" / name
    check_header(path, schema)
    frame = read_table(path, schema)
    assert list(frame.columns) == ["product", "zip_code", "consumer_disputed", "company"]
    assert len(frame) == num_rows
    assert (frame["consumer_disputed"] == "").sum() == unknown
    assert (frame["company"].str.len() > 0).all()


def test_hospitals_agree_on_codes_written_in_two_ways(shared_data: Path, make_schema: Build) -> None:
    schema = make_schema(
        label={"name": "x14", "classes": {"healthy": ["0"], "ill": ["1", "2", "3", "4"]}},
        columns={"x2": {"type": "categorical", "vocabulary": ["0", "1"]}},
    )
    names = ["cleveland", "hungarian", "switzerland", "va"]
    tables = [read_table(shared_data / "heart" / f"{name}.csv", schema) for name in names]
    assert [len(table) for table in tables] == [303, 294, 123, 200]
    assert set(tables[0]["x2"]) == {"0.0", "1.0"}
    for table in tables:
        assert set(normalize_cells(table["x2"])) == {"0", "1"}
