"""Spans: named windows of time, a function of one date cell."""

from __future__ import annotations

import datetime as dt
from typing import get_args

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpipe.data.cells import parse_spans
from fedpipe.data.schema import TimeColumn
from fedpipe.data.spans import (
    UNDATED,
    Window,
    check_formats,
    check_spans,
    is_span,
    newest_spans,
    next_span,
    nominal_window,
    previous_span,
    span_of_day,
    span_of_text,
    spans_between,
    spans_ending,
)
from fedpipe.errors import ConfigError

WINDOWS: tuple[Window, ...] = get_args(Window)
DEFAULT = ("iso", "%m/%d/%Y")
days = st.dates(dt.date(1900, 1, 1), dt.date(2199, 12, 31))
windows = st.sampled_from(WINDOWS)


@pytest.mark.parametrize(
    ("window", "name"),
    [
        ("day", "2026-10-05"),
        ("week", "2026-W41"),
        ("month", "2026-10"),
        ("quarter", "2026-Q4"),
        ("year", "2026"),
    ],
)
def test_names_are_those_of_iso(window: Window, name: str) -> None:
    assert span_of_day(dt.date(2026, 10, 5), window) == name


@pytest.mark.parametrize(
    "text",
    [
        "2026-10-05",
        " 2026-10-05\t",
        "2026-10-05T23:59:59",
        "2026-10-05 23:59",
        "2026-10-05t23:59:59.123456z",
        "2026-10-05T23:59:59-11:00",
        "2026-10-05T00:00:00+1400",
        "2026-10-05 00:00:00 UTC",
        "10/05/2026",
        "10/5/2026",
    ],
)
def test_a_date_counts_as_it_is_written(text: str) -> None:
    """Neither time nor zone moves it to another day."""
    assert span_of_text(text, "day", DEFAULT) == "2026-10-05"


@pytest.mark.parametrize(
    "text",
    [
        *("", "soon", "2026-02-30", "2026-13-01", "13/01/2026", "2026-10", "20261005", "26-10-05", "1.5"),
        *("0001-01-01", "9999-12-31", "2026-10-05x", "x2026-10-05", "2026-10-05T", "2026-10-05 noon"),
        *(
            "\uff12\uff10\uff12\uff16-10-05",
            "10/05/2026 10:00",
            "2026-10-05\x00",
            "-2026-10-05",
            "10/05/26",
            "1791158400",
        ),
    ],
)
def test_anything_else_is_undated(text: str) -> None:
    assert {span_of_text(text, window, DEFAULT) for window in WINDOWS} == {UNDATED}


def test_formats_are_tried_in_order() -> None:
    assert span_of_text("05/10/2026", "month", ["%d/%m/%Y", "%m/%d/%Y"]) == "2026-10"
    assert span_of_text("05/10/2026", "month", ["%m/%d/%Y", "%d/%m/%Y"]) == "2026-05"
    assert span_of_text("10/25/2026", "month", ["%d/%m/%Y", "%m/%d/%Y"]) == "2026-10"


@pytest.mark.parametrize(
    "text", ["iso", "%m/%d/%Y", "%d.%m.%y", "%Y%m%d", "%Y-%j", "%Y-%m-%d %H:%M:%S", "%G-%V-%u"]
)
def test_formats_that_tell_the_day_are_allowed(text: str) -> None:
    check_formats([text], "day")


@pytest.mark.parametrize(
    "text", ["", "ISO", "%b %d %Y", "%A %d/%m/%Y", "%x", "%c", "%m/%d", "%Y-%m", "%", "%Q", "%p"]
)
def test_formats_that_depend_on_the_machine_or_tell_no_day_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="numeric directives"):
        check_formats([text], "day")


def test_a_coarse_format_goes_with_a_coarse_window() -> None:
    check_formats(["%Y-%m"], "quarter")
    check_formats(["%Y"], "year")
    with pytest.raises(ValueError, match="tell the month"):
        check_formats(["%Y"], "month")


@given(days, windows)
def test_a_day_lies_in_the_window_that_its_span_names(day: dt.date, window: Window) -> None:
    span = span_of_day(day, window)
    first, last = nominal_window(span)
    assert first <= day <= last
    assert [each for each in WINDOWS if is_span(span, each)] == [window]
    assert span_of_text(day.isoformat(), window, ["iso"]) == span


@given(days, windows)
def test_spans_follow_each_other_without_gap_or_overlap(day: dt.date, window: Window) -> None:
    span = span_of_day(day, window)
    assert previous_span(next_span(span)) == span == next_span(previous_span(span))
    one_day = dt.timedelta(days=1)
    assert nominal_window(previous_span(span))[1] + one_day == nominal_window(span)[0]
    assert spans_between(previous_span(span), next_span(span)) == (previous_span(span), span, next_span(span))
    assert spans_between(next_span(span), span) == ()


def test_weeks_are_iso_weeks_across_the_year() -> None:
    assert span_of_day(dt.date(2027, 1, 3), "week") == "2026-W53"
    assert nominal_window("2026-W53") == (dt.date(2026, 12, 28), dt.date(2027, 1, 3))
    assert (next_span("2026-W53"), previous_span("2026-W01")) == ("2027-W01", "2025-W52")
    assert not is_span("2025-W53", "week")


@pytest.mark.parametrize(
    "name",
    [
        *("", "undated", "2026-00", "2026-13", "2026-2", "2026-W00", "2026-W54", "2026-Q0", "2026-Q5"),
        *("2026-02-30", "26", "02026", "2026-W3", "2026-q1", "2026-Q1 ", "2026/01", "1066", "2026-1-01"),
        "\u0662\u0660\u0662\u0666",
    ],
)
def test_no_other_text_names_a_span(name: str) -> None:
    assert not any(is_span(name, window) for window in WINDOWS)
    with pytest.raises(ConfigError, match="Expected a span"):
        nominal_window(name)


def test_the_clock_names_spans_that_are_over() -> None:
    assert spans_ending(dt.date(2026, 3, 30), "month", 2) == ("2026-01", "2026-02")
    assert spans_ending(dt.date(2026, 3, 31), "month", 2) == ("2026-02", "2026-03")
    assert spans_ending(dt.date(2026, 1, 1), "year", 1) == ("2025",)
    assert spans_ending(dt.date(2026, 1, 4), "week", 2) == ("2025-W52", "2026-W01")
    assert newest_spans("2026-Q1", 3) == ("2025-Q3", "2025-Q4", "2026-Q1")


@pytest.mark.parametrize(
    ("spans", "window"),
    [
        ([], "month"),
        (["2026-01", "2026-01"], "month"),
        (["2026-01", "2026-Q1"], "month"),
        (["undated"], "month"),
        (["2026-13"], "month"),
        ([""], "month"),
        ([], None),
        (["2026-01"], None),
        (["undated", "undated"], None),
    ],
    ids=str,
)
def test_spans_that_no_run_may_have_are_refused(spans: list[str], window: Window | None) -> None:
    with pytest.raises(ConfigError, match=r"Expected .*, found "):
        check_spans(spans, window)


def test_spans_of_a_run_are_accepted() -> None:
    check_spans(["2026-02", "2025-01"], "month")
    check_spans(["undated"], None)


@given(st.lists(st.one_of(st.text(max_size=12), days.map(str)), max_size=8), windows)
def test_the_span_of_a_cell_does_not_depend_on_other_cells(cells: list[str], window: Window) -> None:
    time = TimeColumn.model_validate({"column": "t", "window": window})
    together = parse_spans(pd.Series(cells, dtype=object), time)
    alone = [parse_spans(pd.Series([cell], dtype=object), time)[0] for cell in cells]
    assert together.tolist() == alone
    for span in alone:
        assert span == UNDATED or is_span(span, window)
