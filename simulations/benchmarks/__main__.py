"""`python -m simulations.benchmarks`: fedpipe and its peers side by side; see docs/kernels.md.

A ratio is the median over turns. One thread each.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(_name, "1")

import argparse
from pathlib import Path
from typing import Any

from simulations.benchmarks.problems import TITLES
from simulations.benchmarks.tables import describe_machine, save, to_markdown

# Those that tell memory come first: what this process once took counts as its children's peak.
PARTS = ("start", "scale", "steps", "round", "cohort")


def main() -> None:
    """Prints the tables, and writes them where `--output` says."""
    parser = argparse.ArgumentParser(prog="simulations.benchmarks", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--problems", nargs="+", choices=list(TITLES), default=list(TITLES))
    parser.add_argument("--turns", type=int, default=9, help="how often each contestant is timed")
    parser.add_argument("--only", help="contestants whose name holds this, and the plain ones")
    parser.add_argument("--peers", type=Path, help="folder for the peers' environments; without it none run")
    parser.add_argument("--clients", nargs="+", type=int, help="numbers of clients to simulate")
    parser.add_argument("--output", type=Path, help="folder for results.json and results.md")
    arguments = parser.parse_args()
    machine = describe_machine()
    results = {part: _measure(part, arguments) for part in PARTS if part in arguments.parts}
    print(to_markdown(machine, results))
    if arguments.output:
        save(arguments.output, machine, results)


def _measure(part: str, arguments: argparse.Namespace) -> Any:
    peers = arguments.peers.absolute() if arguments.peers else None
    if part == "steps":
        from simulations.benchmarks.local_step import measure_local_steps

        return measure_local_steps(
            arguments.problems, turns=arguments.turns, peers=peers, only=arguments.only
        )
    if part == "round":
        from simulations.benchmarks.federated_round import measure_round

        return measure_round(turns=arguments.turns, peers=peers)
    if part == "cohort":
        from simulations.benchmarks.cohort import measure_cohort

        return measure_cohort(turns=arguments.turns)
    from simulations.benchmarks.scale import NUM_CLIENTS, measure_scale, measure_start

    if part == "start":
        return measure_start()
    return measure_scale(tuple(arguments.clients or NUM_CLIENTS))


if __name__ == "__main__":
    main()
