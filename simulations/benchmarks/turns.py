"""Contestants take turns, so that a busy moment of the machine hits all of them."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from subprocess import CalledProcessError
from typing import TypeAlias

from simulations.benchmarks.peers import Worker

SLOW_SECONDS = 5.0

Contestant: TypeAlias = Callable[[], object]
Summary: TypeAlias = dict[str, dict[str, float]]


def take_turns(makers: Mapping[str, Callable[[], Contestant]], turns: int) -> Summary:
    """Returns, by contestant, its first call's seconds and its seconds at each of `turns`, summarised.

    A peer that cannot be installed or started is left out, and said so.
    """
    contestants: dict[str, Contestant] = {}
    first: dict[str, float] = {}
    try:
        for name, make in makers.items():
            start = time.perf_counter()
            try:
                contestants[name] = own = make()
            except (CalledProcessError, RuntimeError) as error:
                print(f"{name} is left out: {error}", file=sys.stderr)
                continue
            first[name] = own.first_seconds if isinstance(own, Worker) else _seconds(own, since=start)
        return summarize(first, _interleave(contestants, turns))
    finally:
        for run in contestants.values():
            if isinstance(run, Worker):
                run.close()


def summarize(first: Mapping[str, float], times: Mapping[str, list[float]]) -> Summary:
    """Returns each contestant's median seconds, and the median over turns of its ratio to every other."""
    return {
        name: {
            "median_seconds": statistics.median(samples),
            "first_seconds": first[name],
            **{
                f"times {other}": statistics.median(a / b for a, b in zip(samples, others, strict=True))
                for other, others in times.items()
            },
        }
        for name, samples in times.items()
    }


def _interleave(contestants: Mapping[str, Contestant], turns: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(turns):
        for name, run in contestants.items():
            samples = times[name]
            # One look at the very slow is enough.
            slow = samples and samples[0] > SLOW_SECONDS
            samples.append(samples[0] if slow else _seconds(run))
    return times


def _seconds(run: Contestant, *, since: float | None = None) -> float:
    start = time.perf_counter() if since is None else since
    told = run()
    return told if isinstance(told, float) else time.perf_counter() - start
