"""Which spans a simulated run uses: found once in the data, then part of what is stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedpipe.config import Config
from fedpipe.errors import ConfigError, DataError
from simulations.population import check_sources, make_population
from simulations.request import SimulationRequest
from simulations.windows import resolve_spans

HEADER = "record_id,age,town,ill,clinic,Received"


@pytest.fixture
def dated(make_config: Callable[..., Config]) -> Callable[..., Config]:
    """A configuration with a date column; arguments are those of `spans`."""

    def make(time: dict[str, Any] | None = None, **spans: Any) -> Config:
        schema = make_config().data_schema.model_dump()
        schema["time"] = {"column": "date", "aliases": ["received"], **(time or {})}
        return make_config(schema=schema, spans=spans)

    return make


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a record for each date."""

    def make(*dates: str, name: str = "records.csv", header: str = HEADER) -> Path:
        path = tmp_path / name
        rows = [f"r{n},{n % 90},ulm,{'y' if n % 2 else 'n'},a,{date}" for n, date in enumerate(dates)]
        path.write_text("\n".join([header, *rows]) + "\n")
        return path

    return make


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ({}, ("2025-11", "2025-12", "2026-01", "2026-02")),
        ({"last": 2}, ("2026-01", "2026-02")),
        ({"until": "2025-12"}, ("2025-11", "2025-12")),
        ({"last": 1, "until": "2025-12"}, ("2025-12",)),
        ({"last": 2, "until": "2026-04"}, ("2026-03", "2026-04")),
        ({"names": ["2026-02"]}, ("2026-02",)),
    ],
    ids=str,
)
def test_a_window_is_taken_from_the_dates_of_all_owners(
    dated: Callable[..., Config], write: Callable[..., Path], spans: dict[str, Any], expected: tuple[str, ...]
) -> None:
    files = [write("2026-01-31", "2025-11-02", name="a.csv"), write("02/01/2026", "", name="b.csv")]
    config, _ = resolve_spans(dated(**spans), files)
    assert config.spans.names == config.run_spans == expected
    assert (config.spans.last, config.spans.until) == (None, None)


def test_a_request_keeps_the_spans_that_were_found(
    dated: Callable[..., Config], write: Callable[..., Path]
) -> None:
    path = write("2026-01-31", "2025-11-02", "later")
    request = SimulationRequest.make(dated(last=1), [path], seed=0)
    assert request.parsed().run_spans == ("2026-01",)
    assert SimulationRequest.model_validate_json(request.model_dump_json()) == request
    assert SimulationRequest.make(dated(last=1), [path], seed=0) == request
    [note] = request.notes
    assert note.startswith("About 33% of the records have no date")


def test_data_without_the_date_column_has_no_time(
    dated: Callable[..., Config], write: Callable[..., Path], tmp_path: Path
) -> None:
    lacking = write("2026-01-01", name="b.csv", header=HEADER.replace("Received", "sent"))
    files = [write("2026-01-31", name="a.csv"), lacking]
    config = dated(last=3)
    check_sources(config, files)
    found, notes = resolve_spans(config, files)
    assert found.data_schema.time is None
    assert found.run_spans == ("undated",)
    assert "'date'" in notes[0]
    federation = found.federation.model_copy(update={"num_clients": 1})
    assert make_population(
        found.model_copy(update={"federation": federation}), files, directory=tmp_path / "p", seed=0
    ).clients


def test_a_population_keeps_the_dates(
    dated: Callable[..., Config], write: Callable[..., Path], tmp_path: Path
) -> None:
    import pandas as pd

    config, _ = resolve_spans(dated(), [path := write("2026-01-31", "", "2026-02-01", "soon")])
    clients = make_population(config, [path], directory=tmp_path / "p", seed=0).clients
    kept = pd.concat([pd.read_parquet(client.source) for client in clients])["date"]
    assert sorted(kept) == ["", "2026-01-31", "2026-02-01", "soon"]


def test_dates_that_no_format_explains_are_refused(
    dated: Callable[..., Config], write: Callable[..., Path]
) -> None:
    with pytest.raises(DataError, match=r"'date'.*schema\.time\.formats") as caught:
        resolve_spans(dated(), [write("31.1.2026", "5.2.2026")])
    assert "31.1" not in str(caught.value)


def test_too_many_spans_name_what_helps(dated: Callable[..., Config], write: Callable[..., Path]) -> None:
    path = write("1900-01-01", "2026-01-01")
    with pytest.raises(ConfigError, match=r"found 1513 from 1900-01 to 2026-01.*spans\.last"):
        resolve_spans(dated(), [path])
    with pytest.raises(ConfigError, match="found 0"):
        resolve_spans(dated(until="1990-01"), [write("2026-01-01")])


@pytest.mark.parametrize(
    ("spans", "match"),
    [
        ({"last": 0}, "spans.last"),
        ({"until": "2026-Q1"}, "spans of a month"),
        ({"names": ["2026-01", "2026-01"]}, "named once"),
        ({"names": ["2026-01"], "last": 1}, "either spans.names"),
        ({"names": []}, "spans.names"),
    ],
    ids=str,
)
def test_spans_that_cannot_be_are_refused(
    dated: Callable[..., Config], spans: dict[str, Any], match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        dated(**spans)


def test_spans_without_a_date_column_are_refused(make_config: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=r"schema\.time"):
        make_config(spans={"last": 3})
    assert make_config().run_spans == ("undated",)


def test_a_data_set_that_comes_with_fedpipe_is_divided_too() -> None:
    from fedpipe.config import load_config

    config, notes = resolve_spans(load_config("complaints", ["schema.time.window=year"]), [])
    assert config.run_spans == ("2014", "2015")
    assert notes == ()
