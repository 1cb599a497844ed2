"""A budget report from ledgers themselves: for whoever may read them, operator or data owner."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from fedpipe.data.spans import UNDATED, nominal_window
from fedpipe.errors import ConfigError, nearest
from fedpipe.ledger import utc_now
from fedpipe.ledger.history_reading import Choice, client_names, read_events, read_history
from fedpipe.ledger.reading import ledger_name
from fedpipe.reports.budget_facts import BudgetReport
from fedpipe.reports.budget_report import ModelOrigin, make_report


def read_report(
    ledgers: Sequence[str | Path],
    *,
    client: str | None = None,
    spans: Sequence[str] = (),
    origins: Sequence[ModelOrigin] = (),
    now: datetime | None = None,
) -> BudgetReport:
    """Returns what `ledgers` say together.

    Args:
      ledgers: files or URLs.
      client: only its records: its name in the ledger, or the end of it after a dot.
      spans: only records of these.
      origins: versions whose lineage is known.
      now: by default, the present.

    Raises:
      ConfigError: a span is none, no ledger knows the client, or two have one name.
      LedgerError: a ledger cannot be read.
    """
    for span in set(spans) - {UNDATED}:
        nominal_window(span)  # a name that is none would look like records that nobody ever used
    account = None if client is None else _account(client, ledgers)
    choice = Choice(client=account, spans=frozenset(spans))
    by_name = _by_name(ledgers)
    return make_report(
        [read_history(place, choice) for place in by_name.values()],
        lambda name, blocks: read_events(by_name[name], blocks),
        made_at=(now or utc_now()).isoformat(timespec="seconds"),
        origins=origins,
        client=account,
    )


def _by_name(places: Sequence[str | Path]) -> dict[str, str | Path]:
    """Returns each place once, by what the report calls it."""
    named: dict[str, str | Path] = {}
    for place in places:
        if str(named.setdefault(ledger_name(place), place)) != str(place):
            raise ConfigError(
                f"Expected ledgers whose names differ, found two called {ledger_name(place)}: "
                "options of a URL are not shown. Make a report of each."
            )
    return named


def _account(client: str, places: Sequence[str | Path]) -> str:
    known = sorted({name for place in places for name in client_names(place)})
    if client in known:
        return client
    ending = [name for name in known if name.endswith(f".{client}")]
    if len(ending) == 1:
        return ending[0]
    if ending:
        raise ConfigError(f"Expected one client, found {client!r} as the end of {', '.join(ending)}: choose.")
    raise ConfigError(
        f"Expected a client with a budget, found none called {client!r}. {nearest(client, known)}"
    )
