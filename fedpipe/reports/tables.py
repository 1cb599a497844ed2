"""The data, the paper trail and the settings of a run, as rows of text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedpipe.data.schema import Column, EmbeddingColumn, ImageColumn, NumericColumn, Schema, TextColumn
from fedpipe.data.statistics import HEALTH
from fedpipe.ledger.certificate import Certificate
from fedpipe.pipeline.records import ExecutionRecord
from fedpipe.reports.evidence import DataCounts, RunEvidence
from fedpipe.reports.spans import all_spans, num_spans
from fedpipe.reports.wording import count, duration, listing, margin

MAX_CLIENTS = 50
_MAX_CLASSES_PER_CLIENT = 4
_CLEAR_DEVIATIONS = 3.0
_STATES = {
    "COMPLETE": "done",
    "CACHED": "taken from an earlier run",
    "FAILED": "failed",
    "CANCELED": "canceled",
    "RUNNING": "interrupted",
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A noisy count. A `faint` one cannot be told from none."""

    text: str
    faint: bool = False


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """Records of a class over all clients."""

    name: str
    train: int
    held_out: int


@dataclass(frozen=True, kw_only=True)
class ClientTable:
    """Noisy label counts by client: `heads` are the columns under each of train and eval."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    margin: str
    num_hidden: int


@dataclass(frozen=True, kw_only=True)
class ColumnRow:
    """A feature column: what was declared of it and what was counted."""

    name: str
    declared: str
    cells: tuple[Cell, ...]
    flagged: bool


@dataclass(frozen=True, kw_only=True)
class MadeFile:
    """A file that a step left, with its SHA-256."""

    name: str
    kind: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class TrailRow:
    """A try of a step and what it made. `releases` are those that the whole step was charged for."""

    step: str
    state: str
    because: str
    releases: int
    started_at: str
    duration: str
    made: tuple[MadeFile, ...]


def class_rows(counts: DataCounts, class_names: Sequence[str]) -> tuple[ClassRow, ...]:
    """Returns noisy records of every class, and without a label, summed over clients."""
    names = (*class_names, "no label")
    tables = [all_spans(table) for table in counts.label_counts.values()]
    return tuple(
        ClassRow(
            name=name,
            train=sum(table[0][index] for table in tables),
            held_out=sum(table[1][index] for table in tables),
        )
        for index, name in enumerate(names)
    )


def client_table(counts: DataCounts, certificate: Certificate, class_names: Sequence[str]) -> ClientTable:
    """Returns what each client counted; one figure per split where there are many classes."""
    by_class = len(class_names) <= _MAX_CLASSES_PER_CLIENT
    clients = list(dict.fromkeys([*(each.client for each in certificate.commitments), *counts.label_counts]))
    cells = num_spans(counts) * (1 if by_class else len(class_names))
    stddev = counts.label_noise_stddev * math.sqrt(cells)
    rows = (
        (client, tuple(_client_cells(counts.label_counts.get(client), stddev, by_class)))
        for client in clients[:MAX_CLIENTS]
    )
    return ClientTable(
        heads=(*class_names, "no label") if by_class else ("labelled", "no label"),
        rows=tuple(rows),
        margin=margin(stddev),
        num_hidden=max(len(clients) - MAX_CLIENTS, 0),
    )


def column_rows(counts: DataCounts, schema: Schema) -> tuple[ColumnRow, ...]:
    """Returns the health of every column, in the order of the schema."""
    flagged = {finding.column for finding in counts.findings}
    return tuple(
        ColumnRow(
            name=name,
            declared=_declared(schema.columns[name]) if name in schema.columns else "",
            cells=tuple(_cell(number, counts.column_noise_stddev) for number in numbers),
            flagged=name in flagged,
        )
        for name, numbers in counts.column_health.items()
    )


def health_heads() -> tuple[str, ...]:
    """Returns the heads of the counts of a column row."""
    return tuple(name.replace("_", " ") for name in HEALTH)


def trail_rows(evidence: RunEvidence) -> tuple[TrailRow, ...]:
    """Returns every try of every step; what a step made stands at its last try."""
    last_tries = {execution.step: execution for execution in evidence.executions}
    return tuple(
        TrailRow(
            step=execution.step,
            state=_STATES.get(execution.state, execution.state.lower()),
            because=execution.because,
            releases=evidence.releases.get(execution.step, 0),
            started_at=execution.started_at[:19].replace("T", " "),
            duration=duration(execution.duration_seconds),
            made=tuple(_made(evidence, execution)) if execution is last_tries[execution.step] else (),
        )
        for execution in evidence.executions
    )


def setting_groups(settings: Mapping[str, Any]) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    """Returns settings by their first name, single ones first, with values as text."""
    single = {name: value for name, value in settings.items() if not isinstance(value, Mapping)}
    groups = {"run": single} | {name: value for name, value in settings.items() if isinstance(value, Mapping)}
    return tuple((name, tuple(_flatten(group))) for name, group in groups.items() if group)


def _client_cells(table: Sequence[Any] | None, stddev: float, by_class: bool) -> Iterator[Cell]:
    if table is None:
        yield Cell(text="no answer", faint=True)
        return
    for row in all_spans(table):
        yield from (_cell(number, stddev) for number in (row if by_class else (sum(row[:-1]), row[-1])))


def _cell(number: int, stddev: float) -> Cell:
    return Cell(text=count(number), faint=number <= _CLEAR_DEVIATIONS * stddev)


def _declared(column: Column) -> str:
    if isinstance(column, NumericColumn):
        return f"number, {column.minimum:g} to {column.maximum:g}"
    if isinstance(column, TextColumn):
        return f"text, n-grams of up to {column.ngrams} words in {column.hash_buckets} hash buckets"
    if isinstance(column, EmbeddingColumn):
        return f"vector of {column.size} numbers"
    if isinstance(column, ImageColumn):
        return f"picture, {column.height} x {column.width} x {column.channels}"
    if column.vocabulary:
        return f"one of {listing(column.vocabulary, most=4)}"
    return f"category, {column.hash_buckets} hash buckets"


def _made(evidence: RunEvidence, execution: ExecutionRecord) -> Iterator[MadeFile]:
    for artifact in evidence.artifacts:
        if artifact.step == execution.step:
            yield MadeFile(name=artifact.name, kind=artifact.type_name, sha256=artifact.digest)
    for name, digest in execution.payloads.items():
        yield MadeFile(name=name, kind="file", sha256=digest)


def _flatten(group: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in group.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _setting_text(value)


def _setting_text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return listing(value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
