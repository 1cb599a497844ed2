"""A database answers like a file, and its URL stays out of every message."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from fedpipe.data import Schema
from fedpipe.data.readers import check_header, find_files, read_header, read_raw, read_table
from fedpipe.errors import DataError

SECRET = "S3CRET"


@pytest.fixture
def database(tmp_path: Path) -> str:
    """The URL of a database with one table."""
    with sqlite3.connect(tmp_path / "d.db") as connection:
        connection.execute('CREATE TABLE people (Age INTEGER, State TEXT, "Company?" TEXT, disputed TEXT)')
        rows = [(30, "CA", 'O"Neil; DROP\nTABLE', "yes"), (None, "", "Acme", None), (5, "NY", "x", "no")]
        connection.executemany("INSERT INTO people VALUES (?, ?, ?, ?)", rows)
    return f"sqlite:///{tmp_path}/d.db"


@pytest.mark.parametrize("query", ["", "#people", "#SELECT * FROM people", "# SELECT * FROM people ;"])
def test_a_table_reads_by_name_by_query_or_alone(
    database: str, query: str, make_schema: Callable[..., Schema]
) -> None:
    assert find_files([database + query]) == [database + query]
    check_header(database + query, make_schema())
    assert read_table(database + query, make_schema()).to_numpy().tolist() == [
        ["30", "CA", 'O"Neil; DROP\nTABLE', "yes"],
        ["", "", "Acme", ""],
        ["5", "NY", "x", "no"],
    ]


def test_a_query_may_choose_rows_and_rename_columns(database: str) -> None:
    query = "#SELECT age AS years, 100.0 * age / 40 AS share FROM people WHERE age LIKE '3%'"
    assert read_header(database + query) == ["years", "share"]
    assert read_raw(database + query).to_numpy().tolist() == [["30", "75.0"]]


def test_a_query_without_rows_gives_no_records(database: str) -> None:
    frame = read_raw(database + "#SELECT * FROM people WHERE 1 = 0")
    assert (len(frame), len(frame.columns)) == (0, 4)


def test_two_tables_ask_for_a_name(database: str) -> None:
    with sqlite3.connect(database.removeprefix("sqlite:///")) as connection:
        connection.execute("CREATE TABLE more (x TEXT)")
    with pytest.raises(DataError, match="found none and 2 tables"):
        read_raw(database)


def test_a_missing_database_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found none: check the path"):
        read_raw(f"sqlite:///{tmp_path}/absent.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("query", ["#absent", "#SELECT x FROM people", "#SELEKT * FROM people"])
def test_a_query_that_fails_says_why(database: str, query: str) -> None:
    with pytest.raises(DataError, match="Check the URL and the query"):
        read_raw(database + query)


@pytest.mark.parametrize(
    "url",
    [
        f"nosuchdatabase://me:{SECRET}@host/x",
        f"postgresql+absent_driver://me:{SECRET}@host/x",
        f"postgresql://me:{SECRET}@host:not-a-port/x",
        f"sqlite://me:{SECRET}@host/x",
        f"mysql+mysqldb://me:{SECRET}@127.0.0.1:1/x",
    ],
)
def test_no_message_holds_a_password(url: str) -> None:
    with pytest.raises(DataError) as caught:
        read_raw(url)
    error: BaseException | None = caught.value
    assert SECRET not in str(error)
    assert caught.value.__cause__ is None


def test_a_header_that_does_not_fit_names_the_database_without_its_url(
    database: str, make_schema: Callable[..., Schema]
) -> None:
    schema = make_schema(label={"name": "outcome", "classes": {"no": [], "yes": []}})
    with pytest.raises(DataError, match="'outcome' in the database") as caught:
        check_header(database, schema)
    assert "sqlite" not in str(caught.value)


@pytest.mark.parametrize(
    "statement",
    ["DROP TABLE people", "DELETE FROM people WHERE 1 = 1", "INSERT INTO people SELECT * FROM people"],
)
def test_a_query_cannot_change_the_database(database: str, statement: str) -> None:
    with pytest.raises(DataError, match="Expected rows from the database, found: attempt to write"):
        read_raw(f"{database}#{statement}")

    assert len(read_raw(f"{database}#people")) == 3
