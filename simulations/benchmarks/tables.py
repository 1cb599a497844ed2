"""Results as JSON and as a Markdown table, with the machine that they are of."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from simulations.benchmarks.problems import BATCH, ROUND_TITLE, STEPS, TITLES
from simulations.benchmarks.turns import Summary

BASELINES = ("plain, batches in a row", "plain, batches drawn")


def describe_machine() -> dict[str, Any]:
    """Returns what a figure depends on: processor, cores, system, and how busy it was."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
        "threads": 1,
    }


def to_markdown(machine: dict[str, Any], results: dict[str, Any]) -> str:
    """Returns the tables of all parts that were measured."""
    load = f"{machine['cores']} cores, load {machine['load_average']:.1f} at the start"
    lines = [f"{machine['processor']}, {load}. Contestants in turn; medians."]
    for part, result in results.items():
        lines += _TABLES[part](result)
    return "\n".join(lines) + "\n"


def _steps(results: dict[str, Summary]) -> list[str]:
    lines = []
    for problem, summary in results.items():
        lines += ["", f"**{STEPS} local steps of {BATCH} records: {TITLES[problem]}**", ""]
        lines += _rows(summary, dict(zip(BASELINES, ("x plain", "x plain on drawn batches"), strict=True)))
    return lines


def _round(summary: Summary) -> list[str]:
    return ["", f"**{ROUND_TITLE}**", "", *_rows(summary, {"fedpipe, DP-SGD": "x fedpipe, DP-SGD"})]


def _cohort(summary: Summary) -> list[str]:
    first = next(iter(summary))
    rows = _rows(summary, {first: f"x {first}"})
    return ["", "**The same steps of a cohort's clients in several ways**", "", *rows]


def _rows(summary: Summary, baselines: dict[str, str]) -> list[str]:
    titles = " | ".join(baselines.values())
    lines = [f"| | ms | first call, s | {titles} |", "|---|---|---|" + "---|" * len(baselines)]
    for name, row in summary.items():
        ratios = " | ".join(f"{row[f'times {baseline}']:.2f}" for baseline in baselines)
        seconds, first = row["median_seconds"], row["first_seconds"]
        lines.append(f"| {name} | {1000 * seconds:.1f} | {first:.2f} | {ratios} |")
    return lines


def _scale(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["", "**A whole run through real nodes: clients of 100 records, two rounds**", ""]
    lines += ["| clients | parameters | s | peak MB |", "|---|---|---|---|"]
    for row in rows:
        size = f"{row['clients']:,} | {row['parameters']:,}"
        lines.append(f"| {size} | {row['seconds']:.1f} | {row['peak_bytes'] / 1e6:.0f} |")
    return lines


def _start(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["", "**From nothing, in a new process**", "", "| | s | peak MB |", "|---|---|---|"]
    return lines + [
        f"| {row['what']} | {row['seconds']:.1f} | {row['peak_bytes'] / 1e6:.0f} |" for row in rows
    ]


_TABLES: dict[str, Callable[[Any], list[str]]] = {
    "steps": _steps,
    "round": _round,
    "cohort": _cohort,
    "scale": _scale,
    "start": _start,
}


def save(folder: Path, machine: dict[str, Any], results: dict[str, Any]) -> None:
    """Writes results.json and results.md into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(
        json.dumps({"machine": machine, "results": results}, indent=2) + "\n"
    )
    (folder / "results.md").write_text(to_markdown(machine, results))
