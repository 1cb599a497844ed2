"""`python -m simulations.benchmarks.encrypted`: an MLP on shares, in the clear, and tf-encrypted's own way.

Three contestants take turns, so that a busy moment of the machine hits all of them: a client's whole request
to a committee here (shares made, sent, computed, joined); the same dense layers in NumPy on one core; and
tf-encrypted as its examples use it, with three remote servers, a private input and a revealed output, all
in one trusted process. It needs `fedpipe encrypted install`. `--requests 10000` then counts what memory the
processes have grown by.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import argparse
import asyncio
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedpipe.encrypted.dense import Builder, DensePart, evaluate
from fedpipe.encrypted.party import tickets
from fedpipe.encrypted.provisioning import default_home, environment, find_environment
from fedpipe.encrypted.shares import decode_fixed, reconstruct
from fedpipe.encrypted.wire import decode_pair
from server.encrypted.committee import Committee, CommitteeSettings, PartyDoor
from server.encrypted.doors import listen
from server.encrypted.owner import Parties

WIDTHS, BATCHES = (600, 64, 16, 1), (1, 32, 256)
Rows = NDArray[np.float64]
Ask = Callable[[Rows], Rows]


def main() -> None:
    """Prints medians, rows per second, ratios and the largest error."""
    parser = argparse.ArgumentParser(prog="simulations.benchmarks.encrypted", description=__doc__)
    parser.add_argument("--home", type=Path, default=default_home(), help="of the parties' environment")
    parser.add_argument("--turns", type=int, default=30, help="how often each contestant is timed")
    parser.add_argument("--requests", type=int, default=0, help="of one row, after which memory is shown")
    arguments = parser.parse_args()
    asyncio.run(_measure(find_environment(arguments.home), arguments.turns, arguments.requests))
    print(f"Load average at the end: {os.getloadavg()[0]:.1f} (other processes slow all sides).")


def make_mlp(generator: np.random.Generator) -> DensePart:
    """Returns random layers whose numbers stay small."""
    builder, value = Builder(), 0
    for inputs, units in pairwise(WIDTHS):
        kernel = generator.normal(size=(inputs, units)) / np.sqrt(inputs)
        value = builder.add("dense", value, weights=[kernel, generator.normal(size=(1, units)) / 10])
        value = builder.add("relu", value) if units > 1 else value
    return builder.build(WIDTHS[0])


async def _measure(python: Path, turns: int, num_requests: int) -> None:
    generator = np.random.default_rng(0)
    part = make_mlp(generator)
    doors = [PartyDoor(listener=(own := listen("127.0.0.1", 0)), url=_url(own)) for _ in range(3)]
    settings = CommitteeSettings(python=python, log=Path(os.devnull))
    committee = Committee(settings=settings, doors=doors, input_width=WIDTHS[0], buckets=BATCHES)
    try:
        await committee.start()
        parties = Parties(committee.urls, None)
        for number, weight in enumerate(part.weights):
            ticket = committee.ticket(tickets.WEIGHTS, number, 60)
            await asyncio.to_thread(parties.send, ticket, weight, 2.0**20)
        await committee.load(part.layers, len(part.weights))
        await asyncio.to_thread(_compare, committee, part, python, turns)
        if num_requests:
            await _show_growth(committee, num_requests)
    finally:
        await committee.close()


def _compare(committee: Committee, part: DensePart, python: Path, turns: int) -> None:
    generator = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder, stock(python, part, Path(folder)) as peer:
        contestants: dict[str, Ask] = {
            "shares": asker(committee),
            "NumPy": lambda rows: evaluate(part, rows),
            "stock": peer,
        }
        for batch in BATCHES:
            _report(generator.normal(size=(batch, WIDTHS[0])), contestants, turns)


def asker(committee: Committee) -> Ask:
    """Returns what one client does with encoded rows."""
    parties = Parties(committee.urls, None)

    def ask(rows: Rows) -> Rows:
        answers = parties.send(committee.ticket(tickets.ROWS, len(rows), 30), rows, 2.0**10)
        return decode_fixed(reconstruct([decode_pair(answer, (len(rows), 1)) for answer in answers]))

    return ask


async def _show_growth(committee: Committee, num_requests: int) -> None:
    """Prints the memory of the processes before and after the requests of two clients at once."""

    def work() -> None:
        ask, rows = asker(committee), np.zeros((1, WIDTHS[0]))
        for _ in range(num_requests // 2):
            ask(rows)

    before = await committee.status()
    with ThreadPoolExecutor(2) as pool:
        await asyncio.gather(*(asyncio.get_running_loop().run_in_executor(pool, work) for _ in range(2)))
    after = await committee.status()
    for name in ("num_requests", "num_runs", "num_held", "resident_bytes", "num_traces"):
        print(f"{name}: {before[name]} -> {after[name]}")


def _report(rows: Rows, contestants: dict[str, Ask], turns: int) -> None:
    batch = len(rows)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    answers = {}
    for _ in range(turns):
        for name, ask in contestants.items():
            started = time.perf_counter()
            answers[name] = ask(rows)
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    error = np.abs(answers["shares"] - answers["NumPy"]).max()
    print(
        f"batch {batch:>3}: p50 {1e3 * medians['shares']:.1f} ms, {batch / medians['shares']:.0f} rows/s; "
        f"{medians['shares'] / medians['NumPy']:.0f} x NumPy, "
        f"{medians['shares'] / medians['stock']:.2f} x tf-encrypted's own; largest logit error {error:.1e}"
    )


@contextmanager
def stock(python: Path, part: DensePart, folder: Path) -> Iterator[Ask]:
    """Yields tf-encrypted's own way, in a process of its environment."""
    np.savez(folder / "weights.npz", *part.weights)
    worker = Path(__file__).with_name("encrypted_stock.py")
    command = ["unshare", "--map-root-user", "--net", str(python), str(worker)]
    command.append(str(folder / "weights.npz"))
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment()
    )

    def ask(rows: Rows) -> Rows:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(np.int64(len(rows)).tobytes() + rows.tobytes())
        process.stdin.flush()
        return np.frombuffer(process.stdout.read(8 * len(rows)), np.float64).reshape(-1, 1)

    try:
        for batch in BATCHES:
            ask(np.zeros((batch, WIDTHS[0])))
        yield ask
    finally:
        process.kill()
        process.wait()


def _url(listener: socket.socket) -> str:
    return "http://{}:{}".format(*listener.getsockname())


if __name__ == "__main__":
    main()
