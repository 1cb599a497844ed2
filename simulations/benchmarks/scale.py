"""What a whole run costs as clients or parameters are added: seconds and peak memory.

The run is the real one, in a process of its own: nodes, ledger, wire format, report. Its clients have a
hundred records each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

CLIENT_RECORDS, NUM_FEATURES, NUM_ROUNDS = 100, 8, 2
NUM_CLIENTS = (10, 50, 250)
HIDDEN_UNITS = (16, 256, 4096)
HOME = Path(__file__).parents[2]
_KERNEL = """
from simulations.benchmarks.contestants import define, run_kernel
from simulations.benchmarks.problems import records
run_kernel("book_keeping", define("{0}"), *records("{0}"))()
"""
STARTS = {
    "fedpipe's command line": "import fedpipe.cli",
    "TensorFlow": "import fedpipe.learning.tensorflow_runtime",
    "both apps": "import clients.app, server.app",
    "a first local epoch, MLP": _KERNEL.format("mlp"),
    "a first local epoch, CNN": _KERNEL.format("cnn"),
}


def measure_scale(num_clients: tuple[int, ...] = NUM_CLIENTS) -> list[dict[str, Any]]:
    """Returns a row for each number of clients, then for each width of the model with the fewest clients."""
    rows = [_run(clients, HIDDEN_UNITS[0]) for clients in num_clients]
    return rows + [_run(num_clients[0], units) for units in HIDDEN_UNITS[1:]]


def _run(num_clients: int, units: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        records, configuration = Path(folder) / "records.parquet", Path(folder) / "scale.yaml"
        write_records(records, num_clients)
        configuration.write_text(json.dumps(settings(units)))
        command: list[str | Path] = [
            "-m",
            "fedpipe",
            "simulate",
            "--config",
            configuration,
            "--data",
            records,
        ]
        seconds, peak_bytes = _cost(
            [*command, "--workspace", Path(folder) / "workspace", "--quiet", "--json"]
        )
    parameters = (NUM_FEATURES + 1) * units + units + 1
    return {"clients": num_clients, "parameters": parameters, "seconds": seconds, "peak_bytes": peak_bytes}


def _cost(arguments: list[str | Path]) -> tuple[float, int]:
    """Returns the seconds and the peak memory of a new Python with `arguments`."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], cwd=HOME, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return round(time.perf_counter() - start, 2), 1024 * usage.ru_maxrss


def measure_start() -> list[dict[str, Any]]:
    """Returns how long new processes take until they can begin, and their peak memory."""
    costs = {title: _cost(["-c", code]) for title, code in STARTS.items()}
    return [
        {"what": title, "seconds": seconds, "peak_bytes": peak_bytes}
        for title, (seconds, peak_bytes) in costs.items()
    ]


def settings(units: int) -> dict[str, Any]:
    """Returns a configuration for records of `NUM_FEATURES` numbers, an MLP with one hidden layer."""
    columns = {f"x{n}": {"type": "numeric", "minimum": 0, "maximum": 1} for n in range(NUM_FEATURES)}
    return {
        "name": "scale",
        "description": "Made-up measurements.",
        "schema": {
            "label": {"name": "label", "classes": {"no": [], "yes": []}},
            "key": "record",
            "client_column": "client",
            "columns": columns,
        },
        "federation": {"partition": "column", "min_records": 1},
        "model": {"name": "scale", "type": "mlp", "hidden_units": [units]},
        "training": {"num_rounds": NUM_ROUNDS, "sampling_probability": 0.3},
    }


def write_records(path: Path, num_clients: int) -> None:
    """Writes a table of CLIENT_RECORDS records for each client."""
    make_records(num_clients).to_parquet(path)


def make_records(num_clients: int) -> pd.DataFrame:
    """Returns CLIENT_RECORDS records for each client."""
    import pandas as pd

    generator, count = np.random.default_rng(0), num_clients * CLIENT_RECORDS
    features = generator.random((count, NUM_FEATURES)).round(3)
    frame = pd.DataFrame(features, columns=[f"x{n}" for n in range(NUM_FEATURES)])
    frame["label"] = np.where(features[:, 0] + 0.3 * generator.normal(size=count) > 0.5, "yes", "no")
    frame["client"] = [f"client-{number:05d}" for number in np.repeat(np.arange(num_clients), CLIENT_RECORDS)]
    frame["record"] = [f"r{number}" for number in range(count)]
    return frame
