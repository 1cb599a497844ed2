"""What the server counts, in Prometheus' text format. Nothing here comes from a request's values.

Labels are bounded: models and versions are those that were loaded, everything else is from a
fixed set.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

from server.prediction.errors import Code
from server.prediction.versions import Models

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LATENCY_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS_BOUNDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)


class _Histogram:
    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self.in_flight = 0
        self._requests: dict[tuple[str, str, str, str, str], int] = {}
        self._latency: dict[tuple[str, str, str], _Histogram] = {}
        self._rows: dict[str, _Histogram] = {}
        self._joined: dict[str, _Histogram] = {}

    def observe_request(
        self, *, model: str, version: str, method: str, protocol: str, code: Code, seconds: float
    ) -> None:
        """Counts a finished request; model and version are empty if none was found for it."""
        key = (model, version, method, protocol, code.name)
        self._requests[key] = self._requests.get(key, 0) + 1
        histogram = self._latency.get(key[:1] + key[2:4])
        if histogram is None:
            histogram = self._latency[model, method, protocol] = _Histogram(LATENCY_BOUNDS)
        histogram.observe(seconds)

    def observe_batch(self, model: str, requests: int, rows: int) -> None:
        """Counts a call of a model that joined this many requests and rows."""
        for histograms, value in ((self._joined, requests), (self._rows, rows)):
            if model not in histograms:
                histograms[model] = _Histogram(ROWS_BOUNDS)
            histograms[model].observe(value)

    def render(self, models: Models) -> str:
        """Returns all figures, those of versions that nobody remembers left out."""
        self._forget(models)
        return "\n".join([*self._lines(models), ""])

    def _forget(self, models: Models) -> None:
        def known(model: str, version: str) -> bool:
            if not model:
                return True
            found = models.by_name.get(model)
            return found is not None and (not version or int(version) in found.statuses)

        self._requests = {key: count for key, count in self._requests.items() if known(key[0], key[1])}
        self._latency = {key: value for key, value in self._latency.items() if known(key[0], "")}
        self._rows = {key: value for key, value in self._rows.items() if known(key, "")}
        self._joined = {key: value for key, value in self._joined.items() if known(key, "")}

    def _lines(self, models: Models) -> Iterator[str]:
        yield from _head("requests_total", "counter", "Finished requests.")
        names = ("model", "version", "method", "protocol", "code")
        for key, count in sorted(self._requests.items()):
            yield f"fedpipe_serving_requests_total{_labels(names, key)} {count}"
        yield from _histograms(
            "request_seconds", "Time to answer.", ("model", "method", "protocol"), self._latency
        )
        batches = {(name,): value for name, value in self._rows.items()}
        yield from _histograms("batch_rows", "Rows in one call of a model.", ("model",), batches)
        joined = {(name,): value for name, value in self._joined.items()}
        yield from _histograms("batch_requests", "Requests in one call of a model.", ("model",), joined)
        yield from _head("in_flight", "gauge", "Requests being answered.")
        yield f"fedpipe_serving_in_flight {self.in_flight}"
        yield from _head("version_state", "gauge", "1 for the state that a version is in.")
        for name, model in sorted(models.by_name.items()):
            for version, status in sorted(model.statuses.items()):
                labels = _labels(("model", "version", "state"), (name, version, status.state.name))
                yield f"fedpipe_serving_version_state{labels} 1"


def _head(name: str, kind: str, meaning: str) -> Iterator[str]:
    yield f"# HELP fedpipe_serving_{name} {meaning}"
    yield f"# TYPE fedpipe_serving_{name} {kind}"


def _histograms(
    name: str, meaning: str, labels: tuple[str, ...], found: dict[Any, _Histogram]
) -> Iterator[str]:
    yield from _head(name, "histogram", meaning)
    for key, histogram in sorted(found.items()):
        seen = 0
        for bound, count in zip([*histogram.bounds, "+Inf"], histogram.counts, strict=True):
            seen += count
            yield f"fedpipe_serving_{name}_bucket{_labels((*labels, 'le'), (*key, bound))} {seen}"
        yield f"fedpipe_serving_{name}_sum{_labels(labels, key)} {histogram.total:.9g}"
        yield f"fedpipe_serving_{name}_count{_labels(labels, key)} {seen}"


def _labels(names: Sequence[str], values: Sequence[Any]) -> str:
    pairs = (f'{name}="{_escape(str(value))}"' for name, value in zip(names, values, strict=True))
    return "{" + ",".join(pairs) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
