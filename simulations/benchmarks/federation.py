"""`python -m simulations.benchmarks.federation`: real nodes on this machine; see docs/federation.md.

  crowd  many nodes at once, one whole cycle
  idle   processor time of a federation without a run; what a round takes, beside the in-process engine
  soak   run after run: whatever grows with each is a leak
  large  a model of 100 MB, and what is left of it in memory and on disk

Memory is in MB of 10^6 bytes; processor time is the process's own, whatever else the machine does.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from server.answers import read_answers
from simulations.benchmarks.federation_site import SERVER, Cycle, Site
from simulations.benchmarks.federation_tables import to_markdown
from simulations.benchmarks.processes import Usage
from simulations.benchmarks.scale import settings, write_records
from simulations.benchmarks.tables import describe_machine

PARTS = ("crowd", "idle", "soak", "large")
FEW = 3
SETTLE_SECONDS = 5.0
LARGE_UNITS = (5000, 5000)  # 25 million parameters, 100 MB
LARGE_ROUNDS = 2


def main() -> None:
    """Prints the tables, and writes the figures where `--output` says."""
    parser = argparse.ArgumentParser(prog="simulations.benchmarks.federation", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["crowd", "idle"])
    parser.add_argument("--nodes", type=int, default=20, help="of crowd")
    parser.add_argument("--rounds", type=int, default=10, help="of each cycle")
    parser.add_argument("--at-once", type=int, help="how many nodes of crowd start together; all")
    parser.add_argument("--forked", action="store_true", help="fork the nodes of crowd from one process")
    parser.add_argument("--seconds", type=float, default=60.0, help="of idle")
    parser.add_argument("--minutes", type=float, default=20.0, help="of soak")
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # processes end, folders go
    machine = describe_machine()
    measure: Mapping[str, Callable[[], dict[str, Any]]] = {
        "crowd": lambda: measure_crowd(
            arguments.nodes, arguments.rounds, arguments.at_once or arguments.nodes, arguments.forked
        ),
        "idle": lambda: measure_idle(arguments.rounds, arguments.seconds),
        "soak": lambda: measure_soak(arguments.rounds, 60 * arguments.minutes),
        "large": measure_large,
    }
    results = {part: measure[part]() for part in PARTS if part in arguments.parts}
    print(to_markdown(machine, results))
    if arguments.output:
        arguments.output.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n")


def measure_crowd(num_nodes: int, num_rounds: int, at_once: int, forked: bool) -> dict[str, Any]:
    """Returns what many nodes cost that start, and run a whole cycle, together."""
    with _site(num_nodes) as site:
        connecting = site.join_forked() if forked else site.join(at_once)
        before = site.usages()
        cycle = site.cycle(num_rounds=num_rounds)
        after = site.usages()
        return {
            "nodes": num_nodes,
            "forked": forked,
            "rounds": num_rounds,
            "connected_seconds": connecting,
            "cycle_seconds": cycle.seconds,
            "round_seconds": statistics.median(_round_seconds(site.operator.root / "workspace", cycle)),
            "clients": cycle.summary["num_clients"],
            "warnings": site.refusals(),
            "coordinator_peak_bytes": cycle.peak_bytes,
            "server": _row(before[SERVER], after[SERVER]),
            "nodes_usage": [_row(before[name], after[name]) for name in site.names],
        }


def measure_idle(num_rounds: int, seconds: float) -> dict[str, Any]:
    """Returns the share of a core that each process of an idle federation takes, and what a round takes."""
    with _site(FEW) as site:
        site.join(FEW)
        cycle = site.cycle(num_rounds=num_rounds)
        rounds = _round_seconds(site.operator.root / "workspace", cycle)
        time.sleep(SETTLE_SECONDS)
        before, began = site.usages(), time.monotonic()
        time.sleep(seconds)
        lasted, after = time.monotonic() - began, site.usages()
    return {
        "seconds": lasted,
        "share": {
            name: (after[name].processor_seconds - before[name].processor_seconds) / lasted for name in after
        },
        "round_seconds": statistics.median(rounds),
        "in_process_round_seconds": statistics.median(_in_process_rounds(num_rounds)),
    }


def measure_soak(num_rounds: int, seconds: float) -> dict[str, Any]:
    """Returns what every process holds, and what lies on disk, after each of many runs."""
    samples: list[dict[str, Any]] = []
    with _site(FEW) as site:
        site.join(FEW)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            cycle = site.cycle(num_rounds=num_rounds)
            samples.append(_sample(site, cycle))
            print(json.dumps(samples[-1]), file=sys.stderr, flush=True)
        warnings = site.refusals()
    return {"rounds": num_rounds, "runs": samples, "warnings": warnings}


def measure_large() -> dict[str, Any]:
    """Returns memory and disk before, right after, and a while after two rounds of a model of 100 MB."""
    with _site(FEW) as site:
        site.join(FEW)
        site.cycle(num_rounds=1)
        before = _sample(site, None)
        cycle = site.cycle(num_rounds=LARGE_ROUNDS, hidden_units=LARGE_UNITS)
        after = _sample(site, cycle)
        time.sleep(SETTLE_SECONDS)
        site.cycle(num_rounds=1)
        later = _sample(site, None)
        rounds = _round_seconds(site.operator.root / "workspace", cycle)
    return {
        "round_seconds": rounds,
        "coordinator_peak_bytes": cycle.peak_bytes,
        "before": before,
        "after": after,
        "after_another_run": later,
    }


@contextmanager
def _site(num_nodes: int) -> Iterator[Site]:
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder), num_nodes)
        try:
            site.up()
            yield site
        finally:
            site.end()


def _row(before: Usage, after: Usage) -> dict[str, float]:
    return {
        "resident_bytes": after.resident_bytes,
        "own_bytes": after.own_bytes,
        "own_bytes_before": before.own_bytes,
        "processor_seconds": after.processor_seconds - before.processor_seconds,
    }


def _sample(site: Site, cycle: Cycle | None) -> dict[str, Any]:
    usages = site.usages()
    return {
        "resident_bytes": {name: usage.resident_bytes for name, usage in usages.items()},
        "files": {name: usage.num_files for name, usage in usages.items()},
        "threads": {name: usage.num_threads for name, usage in usages.items()},
        "processor_seconds": {name: usage.processor_seconds for name, usage in usages.items()},
        "disk_bytes": site.sizes(),
        **(
            {"coordinator_peak_bytes": cycle.peak_bytes, "cycle_seconds": cycle.seconds}
            if cycle is not None
            else {}
        ),
    }


def _round_seconds(workspace: Path, cycle: Cycle) -> list[float]:
    """Returns how long each training round took, the first left out: models are compiled in it."""
    return _training_seconds(workspace / "runs" / cycle.summary["run_id"])


def _training_seconds(run: Path) -> list[float]:
    seconds = [each.seconds for each in read_answers(run) or [] if each.step == "train"]
    return seconds[1:] or seconds


def _in_process_rounds(num_rounds: int) -> list[float]:
    """Returns how long the rounds of the same run take in the in-process engine."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_records(folder / "records.parquet", FEW)
        asked = settings(16)
        asked["training"]["num_rounds"] = num_rounds
        asked["privacy"] = {"epsilon": 1.0}
        (folder / "scale.yaml").write_text(json.dumps(asked))
        done = subprocess.run(
            [
                *(sys.executable, "-m", "fedpipe", "simulate", "--config", folder / "scale.yaml"),
                *("--data", folder / "records.parquet", "--workspace", folder / "workspace"),
                *("--quiet", "--json"),
            ],
            cwd=folder,
            stdout=subprocess.PIPE,
            check=True,
        )
        return _training_seconds(folder / "workspace" / "runs" / json.loads(done.stdout)["run_id"])


if __name__ == "__main__":
    main()
