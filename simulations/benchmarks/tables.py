"""Results as JSON and as a Markdown table, with the machine that they are of."""

from __future__ import annotations

import json
import os
import platform
import statistics
from pathlib import Path
from typing import Any

from simulations.benchmarks.problems import BATCH, STEPS, TITLES

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


def summarize(first: dict[str, float], times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Returns each contestant's median seconds and its ratio to both plain baselines, turn by turn."""
    summary = {}
    for name, samples in times.items():
        ratios = {
            f"times {baseline}": statistics.median(
                mine / plain for mine, plain in zip(samples, times[baseline], strict=True)
            )
            for baseline in BASELINES
        }
        summary[name] = {
            "median_seconds": statistics.median(samples),
            "first_seconds": first[name],
            **ratios,
        }
    return summary


def to_markdown(machine: dict[str, Any], results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Returns one table for each problem."""
    setting = f"{STEPS} steps of {BATCH} records, one thread, contestants in turn; medians"
    load = f"{machine['cores']} cores, load {machine['load_average']:.1f} at the start"
    lines = [f"{setting}. {machine['processor']}, {load}."]
    for problem, summary in results.items():
        lines += [
            "",
            f"**{TITLES[problem]}**",
            "",
            "| | ms | first call, s | x plain | x plain on drawn batches |",
            "|---|---|---|---|---|",
        ]
        for name, row in summary.items():
            ratios = " | ".join(f"{row[f'times {baseline}']:.2f}" for baseline in BASELINES)
            lines.append(
                f"| {name} | {1000 * row['median_seconds']:.1f} | {row['first_seconds']:.2f} | {ratios} |"
            )
    return "\n".join(lines) + "\n"


def save(folder: Path, machine: dict[str, Any], results: dict[str, dict[str, dict[str, float]]]) -> None:
    """Writes results.json and results.md into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(
        json.dumps({"machine": machine, "results": results}, indent=2) + "\n"
    )
    (folder / "results.md").write_text(to_markdown(machine, results))
