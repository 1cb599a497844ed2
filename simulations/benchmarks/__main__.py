"""`python -m simulations.benchmarks`: local training steps side by side; see docs/kernels.md.

Contestants take turns, so that a busy moment of the machine hits all of them, and a ratio is the median
over turns. One thread each.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(_name, "1")

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from simulations.benchmarks.contestants import make_contestants
from simulations.benchmarks.peers import Worker, opacus
from simulations.benchmarks.problems import TITLES
from simulations.benchmarks.tables import describe_machine, save, summarize, to_markdown

SLOW_SECONDS = 5.0


def main() -> None:
    """Prints the tables, and writes them where `--output` says."""
    parser = argparse.ArgumentParser(prog="simulations.benchmarks", description=__doc__)
    parser.add_argument("--problems", nargs="+", choices=list(TITLES), default=list(TITLES))
    parser.add_argument("--turns", type=int, default=9, help="how often each contestant is timed")
    parser.add_argument("--only", help="contestants whose name holds this, and the plain ones")
    parser.add_argument("--peers", type=Path, help="folder for the peers' environments; without it none run")
    parser.add_argument("--output", type=Path, help="folder for results.json and results.md")
    arguments = parser.parse_args()
    machine = describe_machine()
    results = {problem: _measure(problem, arguments) for problem in arguments.problems}
    print(to_markdown(machine, results))
    if arguments.output:
        save(arguments.output, machine, results)


def _measure(problem: str, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    makers: dict[str, Callable[[], Callable[[], object]]] = {**make_contestants(problem)}
    if arguments.peers:
        makers.update(opacus(arguments.peers.absolute(), problem))
    if arguments.only:
        makers = {name: make for name, make in makers.items() if "plain" in name or arguments.only in name}
    contestants, first = {}, {}
    for name, make in makers.items():
        start = time.perf_counter()
        contestants[name] = make()
        own = contestants[name]
        first[name] = own.first_seconds if isinstance(own, Worker) else _seconds(own, since=start)
    try:
        return summarize(first, _interleave(contestants, arguments.turns))
    finally:
        for run in contestants.values():
            if isinstance(run, Worker):
                run.close()


def _interleave(contestants: dict[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(turns):
        for name, run in contestants.items():
            samples = times[name]
            # One look at the very slow is enough.
            slow = samples and samples[0] > SLOW_SECONDS
            samples.append(samples[0] if slow else _seconds(run))
    return times


def _seconds(run: Callable[[], object], *, since: float | None = None) -> float:
    start = time.perf_counter() if since is None else since
    told = run()
    return told if isinstance(told, float) else time.perf_counter() - start


if __name__ == "__main__":
    main()
