"""Which spans a run of a real federation uses: by the clock, since nobody sees the data."""

from __future__ import annotations

import datetime as dt

from fedpipe.config import Config, SpanSettings
from fedpipe.data.spans import newest_spans, nominal_window, spans_between, spans_ending
from fedpipe.errors import ConfigError


def with_spans(config: Config, today: dt.date) -> Config:
    """Returns `config` with its spans named: the newest that are over, or those up to `spans.until`.

    Raises:
      ConfigError: it has a time column, and does not say how many spans to use.
    """
    time, spans = config.data_schema.time, config.spans
    if time is None or spans.names is not None:
        return config
    if spans.last is None:
        raise ConfigError(
            "Expected spans.last or spans.names in a federation, found neither: --set spans.last=4 uses the "
            "newest four that are over."
        )
    if spans.until:
        names = newest_spans(spans.until, spans.last)
    else:
        names = spans_ending(today, time.window, spans.last)
    return config.model_copy(update={"spans": SpanSettings.model_validate({"names": names})})


def num_new_spans(config: Config, before: tuple[str, ...], today: dt.date) -> int:
    """Returns how many spans have ended since the newest of `before`; 0 without a time column."""
    time = config.data_schema.time
    if time is None or not before:
        return 0
    newest = spans_ending(today, time.window, 1)[-1]
    last = max(before, key=lambda span: nominal_window(span)[0])
    return max(len(spans_between(last, newest)) - 1, 0)
