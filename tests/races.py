"""Processes that start at once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.synchronize import Barrier
from typing import Any

from fedpipe.errors import FedpipeError

FORK = multiprocessing.get_context("fork")


def race(actions: Sequence[Callable[[], None]]) -> list[str]:
    """Starts all actions at once, each in a process, and returns what became of each."""
    barrier, results = FORK.Barrier(len(actions)), FORK.Queue()
    racers = [FORK.Process(target=_racer, args=(action, barrier, results)) for action in actions]
    for racer in racers:
        racer.start()
    found = [results.get(timeout=120) for _ in racers]
    for racer in racers:
        racer.join(timeout=60)
    return sorted(found)


def _racer(action: Callable[[], None], barrier: Barrier, results: Any) -> None:
    barrier.wait(timeout=60)
    try:
        action()
    except FedpipeError as error:
        results.put(type(error).__name__)
    else:
        results.put("won")
