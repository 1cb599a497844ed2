"""What every command line does first and last: find the right packages, show errors as one line."""

from __future__ import annotations

import importlib.util
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
import typer

from fedpipe.errors import BudgetError, ConfigError, FedpipeError

SIBLINGS = ("clients", "server", "simulations")
DATABASES = ("sqlite3", "sqlalchemy", "ml_metadata")
INTERRUPTED = 130
MOST_LINES = 20  # of a refusal and its ways out; everything else is one line
_MLMD = re.compile(r"Error when executing query: (.*?) query: .*")  # the statement is nobody's business


def own_packages_first() -> None:
    """Makes `clients`, `server` and `simulations` mean fedpipe's, whatever lies in the current folder.

    `python -m` puts the current folder first on the path, and these names are common.
    """
    home = str(Path(__file__).resolve().parent.parent)
    if home in sys.path:
        sys.path.remove(home)
    sys.path.insert(0, home)


def check_packages() -> None:
    """Raises ConfigError when another package stands in for one of fedpipe's own."""
    home = Path(__file__).resolve().parent.parent
    for name in SIBLINGS:
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin).resolve() if spec and spec.origin else None
        if origin is None or origin.parent.parent != home:
            raise ConfigError(
                f"Expected package {name!r} beside fedpipe in {home}, found {origin or 'none'}: "
                "rename that folder, or run from another one."
            )


def run_command(app: Any, arguments: Sequence[str], *, name: str) -> NoReturn:
    """Runs a typer app and exits: 0, 2 for bad input, 3 for a refused budget, 130 when interrupted."""
    own_packages_first()
    # It tells of an interrupt while a connection is closed, with a traceback; we tell of it in one line.
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    logging.getLogger("absl").setLevel(logging.ERROR)  # ML Metadata prints the statement of a failed query
    try:
        check_packages()
        code = _invoke(typer.main.get_command(app), arguments, name)
    except (click.exceptions.Abort, KeyboardInterrupt):
        _fail("interrupted. Nothing is lost: --resume goes on with a run.", INTERRUPTED)
    except click.ClickException as error:
        _fail(f"{error.format_message()} (see --help)", 2)
    except BudgetError as error:
        _fail(str(error), error.exit_code, num_lines=MOST_LINES)
    except FedpipeError as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        name = error.filename2 or error.filename  # of a rename that failed, what was to be written
        where = f" at {name}" if name else ""
        _fail(f"Expected to read or write a file{where}, found: {error.strerror or error}.", 2)
    except Exception as error:
        if not _is_from_database(error):
            raise
        # SQLAlchemy adds the statement and its values, which are nobody's business.
        first = _first_cause(error)
        reason = _MLMD.sub(r"\1", str(getattr(first, "orig", None) or first).splitlines()[0])
        _fail(f"Expected to read or write a database of the workspace, found: {reason}.", 2)
    sys.exit(code)


def _invoke(command: click.Command, arguments: Sequence[str], name: str) -> int:
    """Runs `command` as click's `main` does, which would meet an interrupt with an empty line of its own."""
    try:
        with command.make_context(name, list(arguments)) as context:
            command.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    return 0


def _first_cause(error: BaseException) -> BaseException:
    """Returns the database error that began it all: after a full disk, others follow that say less."""
    while error.__context__ is not None and _is_from_database(error.__context__):
        error = error.__context__
    return error


def _is_from_database(error: BaseException) -> bool:
    """Whether SQLite, SQLAlchemy or ML Metadata raised `error`; importing them to ask would be slow."""
    return any(kind.__module__.partition(".")[0] in DATABASES for kind in type(error).__mro__)


def _fail(message: str, code: int, *, num_lines: int = 1) -> NoReturn:
    lines = [line.rstrip() for line in message.splitlines() if line.strip()]
    if len(lines) > num_lines or num_lines == 1:
        lines = [" ".join(message.split())]
    text = "\n".join(lines)
    print(f"fedpipe: {text}", file=sys.stderr)  # noqa: T201  what went wrong
    sys.exit(code)
