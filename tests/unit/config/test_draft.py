"""A drafted configuration loads as it is, whatever the file is like, and divides that file."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fedpipe.config import Config, load_config
from fedpipe.config.draft import draft_config
from fedpipe.data import CategoricalColumn, NumericColumn
from fedpipe.data.schema import TextColumn
from fedpipe.errors import DataError
from simulations.datasets import load_dataset
from simulations.population import check_sources, make_population, without_absent_key

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the real data is not beside this checkout (../shared/data)"
)


def draft(source: Path, label: str, client: str | None, folder: Path) -> Config:
    """Drafts, loads, and divides the file's records among clients."""
    path = folder / "drafted.yaml"
    path.write_text(
        draft_config(source, label=label, client_column=client, target=str(path)), encoding="utf-8"
    )
    config = load_config(str(path))
    files = check_sources(config, [source])
    config = without_absent_key(config, files)
    assert make_population(config, files, directory=folder / "population", seed=0).clients
    return config


def write(folder: Path, header: Sequence[str], rows: Sequence[Sequence[Any]], name: str = "t.csv") -> Path:
    path = folder / name
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


@needs_shared
@pytest.mark.parametrize(
    ("name", "label", "client", "key"),
    [
        ("complaints_2013_2016", "Consumer disputed?", "Company", None),
        ("complaints_2013_full_schema", "consumer_disputed?", "company", "complaint_id"),
        ("complaints_with_narratives", "consumer disputed", "COMPANY", "complaint_id"),
    ],
)
def test_real_complaints(tmp_path: Path, name: str, label: str, client: str, key: str | None) -> None:
    config = draft(SHARED / "complaints" / f"{name}.csv", label, client, tmp_path)
    schema = config.data_schema
    assert (schema.label.name, schema.client_column, schema.key) == ("consumer_disputed", "company", key)
    assert schema.label.names == ("No", "Yes")
    assert "company" not in schema.columns
    assert isinstance(schema.columns["product"], CategoricalColumn)
    assert "Mortgage" in schema.columns["product"].vocabulary
    assert not {"date_received", "date_sent_to_company", "complaint_id"} & set(schema.columns)
    assert isinstance(schema.columns.get("consumer_complaint_narrative"), TextColumn) == (
        "narratives" in name
    )
    assert config.federation.partition == "column"


@needs_shared
def test_real_hospital(tmp_path: Path) -> None:
    config = draft(SHARED / "heart" / "cleveland.csv", "x14", None, tmp_path)
    assert config.data_schema.label.names == ("0", "1", "2", "3", "4")
    assert isinstance(config.data_schema.columns["x1"], NumericColumn)
    assert config.federation.partition == "iid"


def test_breast_cancer(tmp_path: Path) -> None:
    path = tmp_path / "tumours.csv"
    frame = load_dataset("sklearn:breast_cancer")
    frame.to_csv(path, index=False)
    config = draft(path, "diagnosis", None, tmp_path)
    schema = config.data_schema
    assert (schema.key, schema.label.names) == ("record_id", ("benign", "malignant"))
    assert len(schema.columns) == 30
    for name, column in schema.columns.items():
        assert isinstance(column, NumericColumn)
        numbers = frame[name].astype(float)
        outside = (numbers < column.minimum) | (numbers > column.maximum)
        assert outside.mean() < 0.01
        assert column.maximum - column.minimum < 3 * (numbers.max() - numbers.min())


NASTY = (
    'it\'s: a "test"',
    "yes",
    "null",
    "~",
    "- dash",
    "# hash",
    "{a: b}",
    "1e3x",
    "é🙂",
    "a, b",
    "@at",
    "%",
)


def test_nasty_names_and_values(tmp_path: Path) -> None:
    header = ["", "Row ID", 'It\'s: "odd" {name}', "class", "2nd", "constant", "Ümlaut: x", "y?", "Größe"]
    rows = [
        [n, f"r{n}", NASTY[n % len(NASTY)], n % 3, n * 1.5, "same", n % 7, "on: x" if n % 3 else "'off'", ""]
        for n in range(120)
    ]
    config = draft(write(tmp_path, header, rows, 'my: "file" #1.csv'), "Y?", None, tmp_path)
    schema = config.data_schema
    assert schema.label.names == ("on: x", "'off'")
    assert schema.key == "row_id"
    words = [
        column.vocabulary
        for column in schema.columns.values()
        if isinstance(column, CategoricalColumn) and len(column.vocabulary) > 5
    ]
    assert [set(vocabulary) for vocabulary in words] == [set(NASTY) - {"null"}]
    assert "constant" not in schema.columns
    assert schema.columns["column_class"].aliases == ("class",)
    assert schema.columns["column_2nd"].aliases == ("2nd",)
    assert ("ümlaut_x",) in [column.aliases for column in schema.columns.values()]


def test_a_label_in_another_script_is_known_by_its_alias(tmp_path: Path) -> None:
    rows = [[n, n % 3, n % 2] for n in range(40)]
    config = draft(write(tmp_path, ["年齢", "年", "結果"], rows), "結果", None, tmp_path)
    assert config.data_schema.label.aliases == ("結果",)
    assert len(config.data_schema.columns) == 2
    with pytest.raises(DataError, match="ASCII"):
        draft_config(tmp_path / "t.csv", label="年", client_column="結果", target="x.yaml")


def test_clients_in_a_column_with_a_nasty_name(tmp_path: Path) -> None:
    rows = [[n, "a: b" if n % 2 else '"c"', "y" if n % 3 else "n"] for n in range(40)]
    config = draft(write(tmp_path, ["Age", "Who's: it?", "Ill"], rows), "Ill", "Who's: it?", tmp_path)
    assert config.data_schema.client_column == "who_s_it"


def test_the_rarer_of_two_classes_is_the_positive_one(tmp_path: Path) -> None:
    rows = [[n, "0" if n % 4 else "1"] for n in range(40)]
    config = draft(write(tmp_path, ["x", "y"], rows), "y", None, tmp_path)
    assert config.data_schema.label.names == ("0", "1")
    rows = [[n, "1" if n % 4 else "0"] for n in range(40)]
    config = draft(write(tmp_path, ["x", "y"], rows), "y", None, tmp_path)
    assert config.data_schema.label.names == ("1", "0")


@pytest.mark.parametrize(
    ("numbers", "low", "high"),
    [
        ([0, 50, 100], 0, 100),
        ([1e-9, 2e-9, 3e-9], 1e-9, 3e-9),
        ([-5e20, 0, 1e20], -5e20, 1e20),
        ([100000.1, 100000.2, 100000.3], 100000.1, 100000.3),
        ([1e80, -1e80, 3], -1e50, 1e50),
    ],
)
def test_ranges_hold_their_numbers(tmp_path: Path, numbers: list[float], low: float, high: float) -> None:
    rows = [[repr(numbers[n % 3]), n % 2] for n in range(60)]
    column = draft(write(tmp_path, ["x", "y"], rows), "y", None, tmp_path).data_schema.columns["x"]
    assert isinstance(column, NumericColumn)
    assert column.minimum <= low
    assert column.maximum >= high


def test_other_formats_are_drafted_alike(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    rows = [{"Age": n, "town": "ulm" if n % 2 else None, "ill": n % 5 == 0} for n in range(60)]
    path.write_text("\n".join(map(json.dumps, rows)))
    config = draft(path, "ill", None, tmp_path)
    assert config.data_schema.label.names == ("False", "True")


@pytest.mark.parametrize(
    ("label", "found"), [("Outcom", "Did you mean outcome"), ("constant", "found 1"), ("name", "found 60")]
)
def test_a_label_that_cannot_be_one_is_refused(tmp_path: Path, label: str, found: str) -> None:
    rows = [[n % 2, "same", f"Jane {n}"] for n in range(60)]
    path = write(tmp_path, ["outcome", "constant", "name"], rows)
    with pytest.raises(DataError, match=found) as caught:
        draft_config(path, label=label, client_column=None, target="x.yaml")
    assert "Jane" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "a,b\n", "y\n1\n0\n1\n"])
def test_a_file_with_nothing_to_learn_from_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(content)
    with pytest.raises(DataError):
        draft_config(path, label="y", client_column=None, target="x.yaml")
