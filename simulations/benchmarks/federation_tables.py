"""Figures of real federations as Markdown tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from simulations.benchmarks.federation_site import SERVER


def to_markdown(machine: dict[str, Any], results: dict[str, Any]) -> str:
    """Returns the tables of all parts that were measured."""
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, load {machine['load_average']:.1f} at the start."
    ]
    for part, result in results.items():
        lines += ["", *_TABLES[part](result)]
    return "\n".join(lines) + "\n"


def _crowd(result: dict[str, Any]) -> list[str]:
    nodes, server = result["nodes_usage"], result["server"]
    kind = "forked from one process" if result["forked"] else "each a process of its own"
    rows = {
        "all connected after, s": f"{result['connected_seconds']:.0f}",
        "the cycle, s": f"{result['cycle_seconds']:.0f}",
        "a round after the first, s": f"{result['round_seconds']:.2f}",
        "clients in the model": str(result["clients"]),
        "a node before it trains, MB": _range([each["own_bytes_before"] for each in nodes]),
        "a node afterwards, MB": _range([each["own_bytes"] for each in nodes]),
        "the server, MB": _range([server["own_bytes_before"], server["own_bytes"]]),
        "the coordinator at most, MB": _range([result["coordinator_peak_bytes"]]),
        "processor time of the server, s": f"{server['processor_seconds']:.1f}",
        "warnings and refusals in all logs": str(len(result["warnings"])),
    }
    title = f"**{result['nodes']} nodes, {kind}; a cycle of {result['rounds']} rounds**"
    return [title, "", *_table(("", "least - most"), rows.items())]


def _idle(result: dict[str, Any]) -> list[str]:
    rows = {f"{name}, idle": f"{100 * share:.2f} % of a core" for name, share in result["share"].items()}
    rows["a round"] = f"{1000 * result['round_seconds']:.0f} ms"
    rows["a round of the in-process engine"] = f"{1000 * result['in_process_round_seconds']:.0f} ms"
    title = f"**{len(result['share']) - 1} nodes, {result['seconds']:.0f} s without a run**"
    return [title, "", *_table(("", ""), rows.items())]


def _soak(result: dict[str, Any]) -> list[str]:
    runs = result["runs"]
    at = sorted({0, len(runs) // 4, len(runs) // 2, 3 * len(runs) // 4, len(runs) - 1})
    title = f"**{len(runs)} runs of {result['rounds']} rounds, one after the other**"
    return [title, "", *_over_time([runs[index] for index in at], [f"run {index + 1}" for index in at])]


def _large(result: dict[str, Any]) -> list[str]:
    moments = ("before", "after", "after_another_run")
    rounds = ", ".join(f"{each:.1f}" for each in result["round_seconds"])
    title = f"**A model of 100 MB, three nodes; rounds took {rounds} s**"
    names = ("before", "after its run", "after another run")
    return [title, "", *_over_time([result[moment] for moment in moments], names)]


def _over_time(samples: Sequence[dict[str, Any]], heads: Sequence[str]) -> list[str]:
    def row(value: Callable[[dict[str, Any]], str]) -> str:
        return " | ".join(value(sample) for sample in samples)

    def of_nodes(kind: str) -> Callable[[dict[str, Any]], list[float]]:
        return lambda sample: [value for name, value in sample[kind].items() if name != SERVER]

    rows = {
        "server, MB": row(lambda each: _range([each["resident_bytes"][SERVER]])),
        "nodes, MB": row(lambda each: _range(of_nodes("resident_bytes")(each))),
        "coordinator at most, MB": row(
            lambda each: _range([each["coordinator_peak_bytes"]]) if "coordinator_peak_bytes" in each else "-"
        ),
        "server: files, threads": row(lambda each: f"{each['files'][SERVER]}, {each['threads'][SERVER]}"),
        "nodes: files, threads at most": row(
            lambda each: f"{max(of_nodes('files')(each))}, {max(of_nodes('threads')(each))}"
        ),
    }
    for name in samples[0]["disk_bytes"]:
        sizes = (f"{sample['disk_bytes'][name] / 1e6:.2f}" for sample in samples)
        rows[f"{name}, MB"] = " | ".join(sizes)
    return _table(("", *heads), rows.items())


def _table(heads: Sequence[str], rows: Any) -> list[str]:
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return lines + [f"| {name} | {value} |" for name, value in rows]


def _range(num_bytes: Sequence[float]) -> str:
    least, most = (f"{extreme(num_bytes) / 1e6:.0f}" for extreme in (min, max))
    return least if least == most else f"{least} - {most}"


_TABLES: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "crowd": _crowd,
    "idle": _idle,
    "soak": _soak,
    "large": _large,
}
