"""`fedpipe init`: a first configuration, drafted from a file of records."""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from fedpipe.data.cells import is_missing, normalize_cells, parse_numbers
from fedpipe.data.readers import read_raw
from fedpipe.data.schema import LARGEST_NUMBER, Schema
from fedpipe.encoding.text import normalize_name
from fedpipe.errors import DataError, nearest

MAX_CLASSES = 20
MAX_WORDS = 60
TEXT_LENGTH = 60
MISSING = Schema.model_fields["missing_tokens"].default

HEADER = """\
# Drafted by 'fedpipe init' from {source}. It runs as it is:
#
#   fedpipe simulate --config {target} --data {source}
#
# Classes, words and ranges below were read from that file. A schema is PUBLIC: before you share this one,
# replace whatever is not common knowledge (a range by a wider round one, a word list by hash_buckets).
"""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What was found out about a file, column by column."""

    label: str
    label_aliases: list[str]
    classes: list[str]
    client_column: str | None
    key: str | None
    columns: dict[str, dict[str, object]]
    left_out: dict[str, str]


def draft_config(source: Path, *, label: str, client_column: str | None, target: str) -> str:
    """Returns the YAML text of a configuration for the records in `source`.

    Raises:
      DataError: if a named column is missing, or the label has one value or too many.
    """
    frame = _canonical(read_raw(source))
    label = _find(label, frame, source)
    client_column = _find(client_column, frame, source) if client_column else None
    if client_column and not client_column.isascii():
        raise DataError("Expected an ASCII name of the column of clients, found another: rename that column.")
    return _render(_draft(frame, label, client_column), source, target)


def _canonical(frame: pd.DataFrame) -> pd.DataFrame:
    names = [normalize_name(str(name)) for name in frame.columns]
    keep = [position for position, name in enumerate(names) if name and names.index(name) == position]
    return frame.iloc[:, keep].set_axis([names[position] for position in keep], axis=1)


def _find(name: str, frame: pd.DataFrame, source: Path) -> str:
    canonical = normalize_name(name)
    if canonical not in frame.columns:
        raise DataError(
            f"Expected a column {name!r} in {source.name}, found none. {nearest(canonical, frame.columns)}"
        )
    return canonical


def _draft(frame: pd.DataFrame, label: str, client_column: str | None) -> Draft:
    classes = _classes(frame[label], label)
    columns: dict[str, dict[str, object]] = {}
    left_out: dict[str, str] = {}
    key = None
    for name in frame.columns:
        if name in (label, client_column):
            continue
        if key is None and name.isascii() and _is_key(name, frame[name]):
            key = name
            continue
        column, reason = _column(frame[name])
        if column is None:
            left_out[name] = reason
        else:
            known = _schema_name(name, frame.columns)
            columns[known] = column if known == name else {**column, "aliases": [name]}
    if not columns:
        raise DataError("Expected at least one column to learn from, found none: see the file's header.")
    known = label if label.isascii() else _schema_name(label, frame.columns)
    return Draft(
        label=known,
        label_aliases=[] if known == label else [label],
        classes=classes,
        client_column=client_column,
        key=key,
        columns=columns,
        left_out=left_out,
    )


def _schema_name(name: str, taken: Collection[str]) -> str:
    """Returns a name for the column that a schema allows: itself, or one that no other column has."""
    if name.isascii() and name.isidentifier() and not keyword.iskeyword(name) and name != "self":
        return name
    ascii_part = normalize_name(name.encode("ascii", "ignore").decode())
    # The file's own position keeps apart what differs in letters beyond ASCII only.
    position = list(taken).index(name) + 1
    candidate = f"column_{ascii_part}".rstrip("_")
    return f"{candidate}_{position}" if candidate in taken or not name.isascii() else candidate


def _classes(cells: pd.Series[str], label: str) -> list[str]:
    values = cells[~is_missing(cells, MISSING)]
    counts = (
        values.groupby(normalize_cells(values)).agg(["first", "size"]).sort_values("size", ascending=False)
    )
    if not 2 <= len(counts) <= MAX_CLASSES:
        raise DataError(
            f"Expected 2 to {MAX_CLASSES} different values in the label {label!r}, found {len(counts)}: "
            "choose another column with --label."
        )
    # The rarer of two is usually what one wants to find.
    names = [str(name).strip() for name in counts["first"]]
    return names if len(names) == 2 else sorted(names)


def _is_key(name: str, cells: pd.Series[str]) -> bool:
    named = re.search(r"(^|_)(id|key|uuid|number|no|nr)$|nummer$", name) is not None
    return named and cells.is_unique and not is_missing(cells, MISSING).any()


def _column(cells: pd.Series[str]) -> tuple[dict[str, object] | None, str]:
    """Returns the column's settings, or None and why it is left out."""
    present = cells[~is_missing(cells, MISSING)]
    distinct = len(set(normalize_cells(present)))
    if distinct < 2:
        return None, "always the same value" if distinct else "no values"
    numbers = parse_numbers(present)
    if np.isfinite(numbers).mean() > 0.95 and distinct > 2:
        return _numeric(numbers[np.isfinite(numbers)]), ""
    if present.str.len().mean() > TEXT_LENGTH and distinct > MAX_WORDS:
        return {"type": "text", "hash_buckets": 1024}, ""
    if pd.to_datetime(present.head(200), errors="coerce", format="mixed").notna().mean() > 0.95:
        return None, "a date (schema.time gives each window of dates a budget of its own)"
    if distinct <= MAX_WORDS:
        words = present.groupby(normalize_cells(present)).agg("first")
        return {"type": "categorical", "vocabulary": sorted(str(word).strip() for word in words)}, ""
    if distinct > 0.5 * len(present):
        return None, "nearly every value is different"
    return {"type": "categorical", "hash_buckets": 256}, ""


def _numeric(numbers: NDArray[np.float64]) -> dict[str, object]:
    low, high = float(np.quantile(numbers, 0.001)), float(np.quantile(numbers, 0.999))
    return {
        "type": "numeric",
        "minimum": _outward(low, math.floor, high - low),
        "maximum": _outward(high, math.ceil, high - low),
    }


def _outward(value: float, rounding: object, width: float) -> float:
    """Returns `value` rounded away from the middle, to a tenth of the magnitude of `width`."""
    unit = 10.0 ** (math.floor(math.log10(width or abs(value) or 1.0)) - 1)
    steps = math.floor(value / unit) if rounding is math.floor else math.ceil(value / unit)
    rounded = float(f"{steps * unit:.12g}")
    if not width:
        rounded += 0 if rounding is math.floor else unit
    return min(max(rounded, -LARGEST_NUMBER), LARGEST_NUMBER)


def _render(draft: Draft, source: Path, target: str) -> str:
    lines = [
        HEADER.format(source=source, target=target).rstrip(),
        f"name: {_problem_name(source)}",
        "schema:",
    ]
    lines += [
        "  label:",
        f"    name: {_inline(draft.label)}",
        "    # The last of two classes is the positive one.",
    ]
    if draft.label_aliases:
        lines.append(f"    aliases: {_inline(draft.label_aliases)}")
    lines += [f"    classes: {_inline({name: [] for name in draft.classes})}"]
    lines += _key_lines(draft)
    if draft.client_column:
        lines.append(f"  client_column: {_inline(draft.client_column)}  # one client for each of its values")
    lines.append("  columns:")
    lines += [f"    {name}: {_inline(column)}" for name, column in draft.columns.items()]
    lines += [f"    # {name}: left out, {reason}" for name, reason in draft.left_out.items()]
    lines += ["federation:"]
    pooled = ["  min_records: 20", "  small_clients: pool  # those with fewer, together"]
    lines += (
        ["  partition: column", *pooled] if draft.client_column else ["  partition: iid", "  num_clients: 10"]
    )
    lines += ["model:", f"  name: {_problem_name(source)}", "  type: logistic_regression  # or mlp"]
    lines += ["privacy:", "  epsilon: 8  # total for each record, over all steps", "  delta: 1.0e-5", ""]
    return "\n".join(lines)


def _key_lines(draft: Draft) -> list[str]:
    if draft.key:
        return [f"  key: {_inline(draft.key)}  # identifies a record for ever"]
    return ["  # key: none found; without one, training and evaluation share a record's budget"]


def _problem_name(source: Path) -> str:
    name = normalize_name(source.stem)
    return name if re.match(r"[a-z]", name) else f"problem_{name}".rstrip("_")


def _inline(value: object) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
