"""`python -m simulations.benchmarks.encrypted_trials`: encrypted prediction, whole, against the plain model.

Each trial trains models with `python -m fedpipe.simulate`, starts `fedpipe encrypted up` and asks as a client
does. `accuracy` asks about many records with a model of every kind. `load` has clients ask at once, for a
number of requests or of minutes; each checks all its answers, and the memory of every process is shown in
MiB. It needs `fedpipe encrypted install`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedpipe.encrypted.client import EncryptedClient
from simulations.benchmarks.encrypted_problems import KINDS, make_problem
from simulations.benchmarks.encrypted_running import PROCESSES, Running, run_service

MAX_ERROR = 1e-3  # of a probability
TIE = 2 * MAX_ERROR  # labels of records this close to a tie may differ
Floats = NDArray[np.float64]


def main() -> None:
    """Prints what a trial finds; exits 1 if an answer was wrong or missing."""
    parser = argparse.ArgumentParser(prog="simulations.benchmarks.encrypted_trials", description=__doc__)
    parser.add_argument("trial", choices=("accuracy", "load"))
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=20, help="of training")
    parser.add_argument("--clients", type=int, default=2, help="that ask at once")
    parser.add_argument("--requests", type=int, default=10_000, help="after which load ends")
    parser.add_argument("--minutes", type=float, default=600.0, help="after which a trial ends at the latest")
    parser.add_argument("--every", type=int, default=500, help="requests between two looks at memory")
    parser.add_argument("--up", default="", help="more words for 'fedpipe encrypted up'")
    parser.add_argument("--folder", type=Path, help="keeps the trained models; by default nothing does")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        correct = [_try(kind, arguments, arguments.folder or Path(scratch)) for kind in arguments.kinds]
    print(f"Load average at the end: {os.getloadavg()[0]:.1f}.")
    raise SystemExit(0 if all(correct) else 1)


def _try(kind: str, arguments: argparse.Namespace, parent: Path) -> bool:
    folder = parent.absolute() / kind
    folder.mkdir(parents=True, exist_ok=True)
    problem = make_problem(kind, folder, arguments.records, arguments.rounds)
    deadline_seconds = 60 * arguments.minutes
    with run_service(problem, folder, *arguments.up.split()) as running:
        if arguments.trial == "accuracy":
            return compare(kind, running, deadline_seconds)
        load = Load(running=running, num_requests=arguments.requests, every=arguments.every)
        return load.run(arguments.clients, deadline_seconds)


def compare(kind: str, running: Running, seconds: float) -> bool:
    """Asks about all records, or as many as there is time for; prints and returns how they agree."""
    found: list[Floats] = []
    started = time.monotonic()
    with EncryptedClient(running.url, timeout_seconds=600) as client:
        rows = client.card.max_rows
        for start in range(0, len(running.inputs), rows):
            if time.monotonic() - started > seconds:
                break
            found.append(client.predict_encoded(running.inputs[start : start + rows]).probabilities)
    took = time.monotonic() - started
    answers = np.concatenate(found)
    served = running.served[: len(answers)]
    error = np.abs(answers - served).max()
    best = np.sort(served, axis=1)
    clear = best[:, -1] - best[:, -2] > TIE
    same = (answers.argmax(axis=1) == served.argmax(axis=1))[clear]
    again = _asked(running) - -(-len(answers) // rows)
    print(
        f"{kind}: {len(answers)} records, largest error of a probability {error:.1e}, "
        f"{clear.sum()} away from ties of which {int((~same).sum())} have another label, "
        f"{len(answers) / took:.1f} records/s, {again} requests asked again"
    )
    return bool(error <= MAX_ERROR and same.mean() > 0.999)


def _asked(running: Running) -> int:
    """Returns how many requests of clients were computed, when the service has said so."""
    time.sleep(_FIGURES_SECONDS)
    num_canaries = len(running.state()["figures"]["num_traces"])
    return int(running.state()["figures"]["num_requests"]) - num_canaries


_FIGURES_SECONDS = 8.0  # figures are asked for every 5 s, and written every second


@dataclass(eq=False, kw_only=True)
class Load:
    """Clients that ask at once, mostly about one record, and check what they are told."""

    running: Running
    num_requests: int
    every: int
    num_done: int = 0
    num_rows: int = 0
    num_wrong: int = 0
    largest_error: float = 0.0
    slowest_seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    committees: set[tuple[int, ...]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, num_clients: int, seconds: float) -> bool:
        """Prints and returns whether all went well."""
        self._started = time.monotonic()
        self._deadline = self._started + seconds
        print(
            f"{'requests':>8} {'seconds':>8} {'front end':>14}"
            + "".join(f" {name:>14}" for name in PROCESSES)
        )
        self._show()
        with ThreadPoolExecutor(num_clients) as pool:
            list(pool.map(self._ask, range(num_clients)))
        self._show()
        took = time.monotonic() - self._started
        print(
            f"{num_clients} clients, {self.num_done} requests, {self.num_rows} rows in {took:.0f} s: "
            f"{len(self.failures)} failed, {self.num_wrong} wrong, largest error {self.largest_error:.1e}, "
            f"slowest {self.slowest_seconds:.1f} s; {len(self.committees)} sets of parties seen, "
            f"{self.running.state()['num_recoveries']} recoveries. "
            f"An answer of another record would be seen with probability {self._distinct():.2f}."
        )
        for failure in self.failures[:5]:
            print(failure)
        return not self.failures and not self.num_wrong

    def _ask(self, number: int) -> None:
        generator = np.random.default_rng(number)
        # One attempt: a failure that another try would hide is what is looked for.
        with EncryptedClient(self.running.url, attempts=1) as client:
            rows = client.card.max_rows
            while self.num_done < self.num_requests and time.monotonic() < self._deadline:
                count = 1 if generator.random() < 0.7 else int(generator.integers(1, rows + 1))
                chosen = generator.integers(0, len(self.running.inputs), count)
                started = time.monotonic()
                try:
                    found = client.predict_encoded(self.running.inputs[chosen]).probabilities
                except Exception as error:  # whatever it is, it is what the trial looks for
                    self._note(failure=f"{type(error).__name__}: {error}")
                else:
                    wrong_by = float(np.abs(found - self.running.served[chosen]).max())
                    self._note(error=wrong_by, rows=count, seconds=time.monotonic() - started)

    def _note(self, *, error: float = 0.0, rows: int = 0, seconds: float = 0.0, failure: str = "") -> None:
        with self._lock:
            self.num_done += 1
            self.num_rows += rows
            self.num_wrong += error > MAX_ERROR
            self.largest_error = max(self.largest_error, error)
            self.slowest_seconds = max(self.slowest_seconds, seconds)
            self.failures += [failure] if failure else []
            if self.num_done % self.every == 0:
                self._show()

    def _show(self) -> None:
        parties = self.running.committee()
        self.committees.update(parties[start : start + 3] for start in range(0, len(parties), 3))
        held = self.running.resident_mebibytes()
        cells = ("+".join(f"{each}" for each in sizes) for sizes in held.values())
        took = time.monotonic() - self._started
        print(f"{self.num_done:>8} {took:>8.0f}" + "".join(f" {cell:>14}" for cell in cells), flush=True)

    def _distinct(self) -> float:
        """Returns how often the answer of another record differs by more than an error may be."""
        served = self.running.served
        others = served[np.random.default_rng(0).permutation(len(served))]
        return float((np.abs(served - others).max(axis=1) > TIE).mean())


if __name__ == "__main__":
    main()
