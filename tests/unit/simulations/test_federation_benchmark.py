"""What the benchmark of real nodes counts and prints; its figures are no test's business."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from simulations.benchmarks.federation_site import SERVER
from simulations.benchmarks.federation_tables import to_markdown
from simulations.benchmarks.processes import size_of, usage_of

MACHINE = {"processor": "an abacus", "cores": 2, "load_average": 0.5}
MB = 1e6


def test_a_process_is_counted_as_the_kernel_counts_it(tmp_path: Path) -> None:
    before = usage_of(os.getpid())
    waiting = threading.Event()
    thread = threading.Thread(target=waiting.wait)
    thread.start()
    with (tmp_path / "open").open("w"):
        after = usage_of(os.getpid())
    waiting.set()
    thread.join()

    assert 0 < before.own_bytes <= before.resident_bytes
    assert after.num_threads == before.num_threads + 1
    assert after.num_files == before.num_files + 1
    assert 0 < before.processor_seconds <= after.processor_seconds


def test_sizes_are_of_files_and_of_all_that_is_in_folders(tmp_path: Path) -> None:
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "deep" / "file").write_bytes(bytes(7))
    (tmp_path / "file").write_bytes(bytes(5))

    assert size_of([tmp_path / "folder", tmp_path / "file", tmp_path / "missing"]) == 12


def a_sample(megabytes: float) -> dict[str, Any]:
    names = (SERVER, "client-00000", "client-00001")
    return {
        "resident_bytes": dict.fromkeys(names, megabytes * MB),
        "files": dict.fromkeys(names, 11),
        "threads": dict.fromkeys(names, 20),
        "disk_bytes": {"a ledger": 250_000},
    }


def test_a_soak_shows_its_first_its_last_and_runs_between() -> None:
    samples = [a_sample(number) for number in range(1, 10)]

    text = to_markdown(MACHINE, {"soak": {"rounds": 3, "runs": samples}})

    assert "**9 runs of 3 rounds, one after the other**" in text
    assert "|  | run 1 | run 3 | run 5 | run 7 | run 9 |" in text
    assert "| server, MB | 1 | 3 | 5 | 7 | 9 |" in text
    assert "| a ledger, MB | 0.25 | 0.25 | 0.25 | 0.25 | 0.25 |" in text


def test_a_crowd_shows_its_smallest_and_its_largest_node() -> None:
    def usage(megabytes: float) -> dict[str, float]:
        return {"own_bytes": megabytes * MB, "own_bytes_before": 100 * MB, "processor_seconds": 3.0}

    crowd = {
        "nodes": 2,
        "forked": False,
        "rounds": 5,
        "connected_seconds": 8.0,
        "cycle_seconds": 30.0,
        "round_seconds": 0.25,
        "clients": 2,
        "warnings": [],
        "coordinator_peak_bytes": 700 * MB,
        "server": usage(170),
        "nodes_usage": [usage(400), usage(460)],
    }

    text = to_markdown(MACHINE, {"crowd": crowd})

    assert "an abacus, 2 cores, load 0.5 at the start." in text
    assert "| a node afterwards, MB | 400 - 460 |" in text
    assert "| a node before it trains, MB | 100 |" in text
    assert "| warnings and refusals in all logs | 0 |" in text
