"""Local training steps side by side, problem by problem."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from simulations.benchmarks.contestants import make_contestants
from simulations.benchmarks.peers import step_peers
from simulations.benchmarks.turns import Summary, take_turns


def measure_local_steps(
    problems: list[str], *, turns: int, peers: Path | None, only: str | None
) -> dict[str, Summary]:
    """Returns each problem's contestants with their medians."""
    return {problem: _measure(problem, turns, peers, only) for problem in problems}


def _measure(problem: str, turns: int, peers: Path | None, only: str | None) -> Summary:
    makers: dict[str, Callable[[], Callable[[], object]]] = {**make_contestants(problem)}
    if peers:
        makers.update(step_peers(peers, problem))
    if only:
        makers = {name: make for name, make in makers.items() if "plain" in name or only in name}
    return take_turns(makers, turns)
