"""Tables from a database: the rows of one query, every cell as text.

A source is a SQLAlchemy URL, with the query or the table's name behind '#':
`sqlite:///complaints.db#SELECT * FROM complaints`. Without it, the database's only table is meant.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from sqlalchemy import Connection, CursorResult, Executable, create_engine, inspect, select, table, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from fedpipe.data.formats import cell_text, in_chunks
from fedpipe.errors import DataError

# A query that changes something is a mistake, and SQLite would not even take it back.
_READ_ONLY = {
    "sqlite": "PRAGMA query_only = ON",
    "postgresql": "SET TRANSACTION READ ONLY",
    "mysql": "SET SESSION TRANSACTION READ ONLY",
    "mariadb": "SET SESSION TRANSACTION READ ONLY",
    "oracle": "SET TRANSACTION READ ONLY",
}


def is_database(source: str) -> bool:
    """Returns whether `source` is a database's URL rather than a path.

    >>> is_database("sqlite:///complaints.db#complaints"), is_database("complaints.csv")
    (True, False)
    """
    return "://" in source


def read_query_header(source: str) -> list[str]:
    """Returns the column names behind `source`; raises as `read_query` does."""
    with _result(source) as result:
        return _names(result)


def read_query(source: str) -> Iterator[pd.DataFrame]:
    """Yields the rows behind `source`, as text: some at a time, one frame at least.

    Raises:
      DataError: if the database does not answer. Its message holds neither URL nor query: they may
        hold a password.
    """
    with _result(source) as result:
        names = _names(result)
        rows = ([cell_text(value) for value in row] for row in result)
        for chunk in in_chunks(rows, lambda row: sum(map(len, row))):
            yield pd.DataFrame(chunk, columns=range(len(names)), dtype=str).set_axis(names, axis=1)


@contextmanager
def _result(source: str) -> Iterator[CursorResult[Any]]:
    url, _, query = source.partition("#")
    with _connect(url) as connection:
        statement = _statement(connection, query.strip())
        # Drivers that can leave the rows at the server, and hand them over as they are asked for, do.
        yield connection.execution_options(stream_results=True).execute(statement)


def _names(result: CursorResult[Any]) -> list[str]:
    return [str(name) for name in result.keys()]  # noqa: SIM118  not a dict


def _statement(connection: Connection, query: str) -> Executable:
    if " " in query:
        return text(query)
    return select(text("*")).select_from(table(query or _only_table(connection)))


@contextmanager
def _connect(url: str) -> Iterator[Connection]:
    try:
        engine = create_engine(url)
    except (ArgumentError, NoSuchModuleError, ImportError, ValueError):
        raise DataError(
            "Expected a database URL that SQLAlchemy knows, such as sqlite:///FILE, found another: "
            "check it, and install the database's driver."
        ) from None
    file = engine.url.database if engine.dialect.name == "sqlite" else None
    if file and file != ":memory:" and not Path(file).is_file():
        raise DataError(
            f"Expected a database file at {file}, found none: check the path."
        )  # SQLite would make one
    try:
        with engine.connect() as connection:
            if engine.dialect.name in _READ_ONLY:
                connection.execute(text(_READ_ONLY[engine.dialect.name]))
            yield connection
    except SQLAlchemyError as error:
        detail = str(getattr(error, "orig", error)).splitlines()[0].rstrip(".")
        raise DataError(
            f"Expected rows from the database, found: {detail}. Check the URL and the query."
        ) from None
    finally:
        engine.dispose()


def _only_table(connection: Connection) -> str:
    tables = [*inspect(connection).get_table_names(), *inspect(connection).get_view_names()]
    if len(tables) != 1:
        raise DataError(
            f"Expected a query or a table's name behind '#', found none and {len(tables)} tables: "
            "add #TABLE or #SELECT ... to the URL."
        )
    return str(tables[0])
