"""Spans: the windows of time that records fall into, named like ISO 8601.

A record's budget belongs to its span, so the span is a function of the record's own date cell and
of nothing else: neither of the file, nor of other records, nor of the day on which it is read. The
date counts as it is written; no time zone is converted.

| window | name of a span |
|---|---|
| day | 2026-10-05 |
| week | 2026-W03, an ISO week: Monday to Sunday |
| month | 2026-10 |
| quarter | 2026-Q1 |
| year | 2026 |
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from typing import Literal

from fedpipe.errors import ConfigError

Window = Literal["day", "week", "month", "quarter", "year"]

UNDATED = "undated"
ISO = "iso"
# Dates beyond stand for "never" or "unknown" in exports: 0001-01-01, 9999-12-31.
FIRST_YEAR, LAST_YEAR = 1900, 2199

_ONE_DAY = dt.timedelta(days=1)
_ISO_DATE = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"([t ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]+)?)?( ?(z|utc|gmt|[+-][0-9]{2}(:?[0-9]{2})?))?)?",
    re.IGNORECASE,
)
# Names of days and months depend on the locale, hence on the machine.
_NUMERIC_DIRECTIVES = frozenset("YymdHMSfzjGuV%")
_NAMES: dict[Window, re.Pattern[str]] = {
    "day": re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})"),
    "week": re.compile(r"([0-9]{4})-W([0-9]{2})"),
    "month": re.compile(r"([0-9]{4})-([0-9]{2})"),
    "quarter": re.compile(r"([0-9]{4})-Q([1-4])"),
    "year": re.compile(r"([0-9]{4})"),
}


def span_of_text(text: str, window: Window, formats: Sequence[str]) -> str:
    """Returns the span of a date as exports write it, by the first of `formats` that fits.

    >>> span_of_text("10/05/2026", "quarter", ["iso", "%m/%d/%Y"])
    '2026-Q4'
    >>> span_of_text("some day", "quarter", ["iso"])
    'undated'
    """
    day = _parse(text.strip(), formats) if text.isascii() else None
    return UNDATED if day is None else span_of_day(day, window)


def span_of_day(day: dt.date, window: Window) -> str:
    """Returns the span that holds `day`.

    >>> span_of_day(dt.date(2027, 1, 1), "week")
    '2026-W53'
    """
    match window:
        case "day":
            return f"{day.year:04d}-{day.month:02d}-{day.day:02d}"
        case "week":
            year, week, _ = day.isocalendar()
            return f"{year:04d}-W{week:02d}"
        case "month":
            return f"{day.year:04d}-{day.month:02d}"
        case "quarter":
            return f"{day.year:04d}-Q{(day.month + 2) // 3}"
        case "year":
            return f"{day.year:04d}"


def nominal_window(span: str) -> tuple[dt.date, dt.date]:
    """Returns the first and the last day of `span`.

    Raises:
      ConfigError: `span` is no name of a dated span.
    """
    first = _first_day(span)
    if first is None:
        raise ConfigError(
            f"Expected a span, such as 2026-10-05, 2026-W03, 2026-10, 2026-Q1 or 2026, found {span!r}."
        )
    window = _window_of(span)
    last = first
    while span_of_day(last + _ONE_DAY, window) == span:
        # A week, a month and so on are too few days for a rule of their own to be worth a mistake.
        last += _ONE_DAY
    return first, last


def is_span(name: str, window: Window) -> bool:
    """Returns whether `name` is a span of `window`.

    >>> is_span("2026-W54", "week"), is_span("2026-02", "month"), is_span("2026-02", "year")
    (False, True, False)
    """
    return _first_day(name) is not None and _window_of(name) == window


def previous_span(span: str) -> str:
    """Returns the span of the same window just before.

    >>> previous_span("2026-Q1"), previous_span("2026-03-01")
    ('2025-Q4', '2026-02-28')
    """
    return span_of_day(nominal_window(span)[0] - _ONE_DAY, _window_of(span))


def next_span(span: str) -> str:
    """Returns the span of the same window just after."""
    return span_of_day(nominal_window(span)[1] + _ONE_DAY, _window_of(span))


def spans_between(first: str, last: str) -> tuple[str, ...]:
    """Returns all spans from `first` to `last`, both of one window; none if `last` is earlier.

    >>> spans_between("2025-Q3", "2026-Q1")
    ('2025-Q3', '2025-Q4', '2026-Q1')
    """
    if nominal_window(first)[0] > nominal_window(last)[0]:
        return ()
    spans = [first]
    while spans[-1] != last:
        spans.append(next_span(spans[-1]))
    return tuple(spans)


def spans_ending(day: dt.date, window: Window, count: int) -> tuple[str, ...]:
    """Returns the newest `count` spans that are over at the end of `day`: what a coordinator's clock says.

    A span that is still filling is left out. Its block would be charged for the records that are
    there, and those that come later would find their budget spent.

    >>> spans_ending(dt.date(2026, 3, 30), "month", 2)
    ('2026-01', '2026-02')
    """
    newest = span_of_day(day, window)
    if nominal_window(newest)[1] > day:
        newest = previous_span(newest)
    return newest_spans(newest, count)


def newest_spans(last: str, count: int) -> tuple[str, ...]:
    """Returns `count` spans, oldest first, of which `last` is the newest."""
    spans = [last]
    while len(spans) < count:
        spans.append(previous_span(spans[-1]))
    return tuple(reversed(spans))


def check_spans(spans: Sequence[str], window: Window | None) -> None:
    """Raises ConfigError unless `spans` can be the spans of a run: some, each once, all of `window`.

    A span named twice would count its records twice, and one of another window would hold records
    that fall into other blocks. Without a window, all records lie in one span.
    """
    if len(set(spans)) < len(spans) or not spans:
        raise ConfigError(f"Expected one span or more, each named once, found {_listed(spans)}.")
    if window is None:
        if tuple(spans) != (UNDATED,):
            raise ConfigError(
                f"Expected the span {UNDATED!r} alone, since schema.time is not set, found {_listed(spans)}."
            )
        return
    wrong = [span for span in spans if not is_span(span, window)]
    if wrong:
        example = span_of_day(dt.date(2026, 1, 1), window)
        raise ConfigError(f"Expected spans of a {window}, such as {example}, found {_listed(wrong)}.")


def check_formats(formats: Sequence[str], window: Window) -> None:
    """Raises ValueError unless every format tells any date's span, on every machine in the same way."""
    for each in formats:
        if each != ISO and not _tells_spans(each, window):
            raise ValueError(
                f"expected {ISO!r}, or a format of numeric directives that tell the {window}, such as "
                f"%m/%d/%Y, found {each!r}"
            )


def _tells_spans(text: str, window: Window) -> bool:
    if not set(re.findall(r"%(.?)", text)) <= _NUMERIC_DIRECTIVES:
        return False
    days = [dt.date(2026, month, day) for month in range(1, 13) for day in (1, 9, 16, 24)]
    try:
        return all(
            _parse(day.strftime(text), [text]) is not None
            and span_of_text(day.strftime(text), window, [text]) == span_of_day(day, window)
            for day in (*days, dt.date(2027, 1, 1))
        )
    except ValueError:
        return False


def _parse(text: str, formats: Sequence[str]) -> dt.date | None:
    for each in formats:
        day = _parse_iso(text) if each == ISO else _parse_format(text, each)
        if day is not None and FIRST_YEAR <= day.year <= LAST_YEAR:
            return day
    return None


def _parse_iso(text: str) -> dt.date | None:
    found = _ISO_DATE.fullmatch(text)
    try:
        return dt.date(*map(int, found.groups()[:3])) if found else None
    except ValueError:
        return None


def _parse_format(text: str, wanted: str) -> dt.date | None:
    try:
        return dt.datetime.strptime(text, wanted).date()  # noqa: DTZ007  the date as it is written
    except ValueError:
        return None


def _window_of(span: str) -> Window:
    return next(window for window, pattern in _NAMES.items() if pattern.fullmatch(span))


def _first_day(span: str) -> dt.date | None:
    """Returns the first day of `span`, None for what is no span."""
    for window, pattern in _NAMES.items():
        if found := pattern.fullmatch(span):
            return _first_day_of(window, [int(number) for number in found.groups()])
    return None


def _first_day_of(window: Window, numbers: Sequence[int]) -> dt.date | None:
    year, *rest = numbers
    # The last days of 2199 lie in a week of 2200.
    if not FIRST_YEAR - 1 <= year <= LAST_YEAR + 1:
        return None
    try:
        if window == "week":
            return dt.date.fromisocalendar(year, rest[0], 1)
        if window == "quarter":
            return dt.date(year, 3 * rest[0] - 2, 1)
        return dt.date(year, *[*rest, 1, 1][:2])
    except ValueError:
        return None


def _listed(spans: Sequence[str]) -> str:
    shown = ", ".join(repr(span) for span in spans[:5]) or "none"
    return shown if len(spans) <= 5 else f"{shown} and {len(spans) - 5} more"
