"""Which spans a simulated run uses: the operator is the simulator, who sees all records.

A real coordinator observes no dates; see `server.federation.spans.with_spans`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import pandas as pd

from fedpipe.config import MAX_SPANS, Config, SpanSettings
from fedpipe.data.cells import parse_spans
from fedpipe.data.readers import Source, read_header, read_raw_chunks, select_columns, source_name
from fedpipe.data.schema import Schema, TimeColumn
from fedpipe.data.spans import UNDATED, newest_spans, nominal_window, spans_between
from fedpipe.encoding.text import normalize_name
from fedpipe.errors import ConfigError, DataError
from simulations.datasets import load_dataset


def resolve_spans(config: Config, files: Sequence[Source]) -> tuple[Config, tuple[str, ...]]:
    """Returns `config` with the spans of the run by name, and what there is to be said about it.

    Without a date column in some file, the run has no time. Headers are public; dates are read by the
    simulator alone.

    Raises:
      DataError: no record has a date that the formats explain.
      ConfigError: the window holds no span, or too many.
    """
    time = config.data_schema.time
    if time is None:
        return config, ()
    if any(_names_of(config.data_schema, time).isdisjoint(_names_in(file)) for file in files):
        note = f"Some data lacks the date column {time.column!r}: all records are in one span, {UNDATED!r}."
        return _without_time(config), (note,)
    if config.spans.names is not None:
        return config, ()
    tokens = config.data_schema.missing_tokens
    found: Counter[str] = Counter()  # the number of records of every span
    for frame in _frames(config, files):
        found.update(parse_spans(frame[time.column], time, tokens).tolist())
    names = _choose(config.spans, _dated(found, time))
    chosen = SpanSettings(last=None, until=None, names=names)
    return config.model_copy(update={"spans": chosen}), tuple(_notes(found, time))


def _names_of(schema: Schema, time: TimeColumn) -> set[str]:
    return set(map(normalize_name, (time.column, *schema.known()[time.column])))


def _names_in(file: Source) -> set[str]:
    return set(map(normalize_name, read_header(file)))


def _without_time(config: Config) -> Config:
    schema = config.data_schema.model_copy(update={"time": None})
    return config.model_copy(
        update={"data_schema": schema, "spans": SpanSettings(last=None, until=None, names=None)}
    )


def _frames(config: Config, files: Sequence[Source]) -> Iterator[pd.DataFrame]:
    """Yields the records of the files, or of the built-in data set, as clients will find their columns."""
    schema, source = config.data_schema, str(config.data.source)
    if not files:
        yield select_columns(load_dataset(source, config.data.limit), schema, source)
    for file in files:
        for frame in read_raw_chunks(file):
            yield select_columns(frame, schema, source_name(file))


def _dated(found: Counter[str], time: TimeColumn) -> list[str]:
    dated = sorted(found.keys() - {UNDATED}, key=lambda span: nominal_window(span)[0])
    if not dated:
        raise DataError(
            f"Expected dates in column {time.column!r}, found none that schema.time.formats "
            f"({', '.join(time.formats)}) explains: add theirs."
        )
    return dated


def _choose(settings: SpanSettings, dated: Sequence[str]) -> tuple[str, ...]:
    """Returns all spans from the first with records to the last one wanted, or the newest of these."""
    until = settings.until or dated[-1]
    if settings.last is not None:
        return newest_spans(until, settings.last)
    names = spans_between(dated[0], until)
    if not 0 < len(names) <= MAX_SPANS:
        raise ConfigError(
            f"Expected 1 to {MAX_SPANS} spans, found {len(names)} from {dated[0]} to {until}: set spans.last "
            "and spans.until, or a longer schema.time.window."
        )
    return names


def _notes(found: Counter[str], time: TimeColumn) -> Iterator[str]:
    share = found[UNDATED] / found.total()
    if share:
        yield (
            f"About {max(share, 0.01):.0%} of the records have no date that schema.time.formats explains "
            f"in column {time.column!r}: they are not used."
        )
