"""`python -m simulations.benchmarks.ledger`: a ledger of 100,000 blocks and a million events; docs/ledger.md.

100 clients claim 1,000 blocks each (500 days, two splits), three times. Everything goes through the
public interface; then claims, releases, reports and a full check are timed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from fedpipe.data.spans import newest_spans
from fedpipe.ledger import Block, BlockPolicy, Ledger, LedgerStore, ReleaseId
from fedpipe.ledger.check import check_ledger
from fedpipe.privacy import DpSgd, NoisyHistograms, PrivacyPlan, Query
from fedpipe.privacy.plan import Split
from simulations.benchmarks.tables import describe_machine

NUM_CLIENTS = 100
NUM_DAYS = 500
NUM_RUNS = 3
POLICY = BlockPolicy(epsilon=1000.0, delta=1e-5, renyi_order=8)


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(prog="simulations.benchmarks.ledger", description=__doc__)
    parser.add_argument("--url", help="an empty PostgreSQL database; without it, a SQLite file")
    parser.add_argument("--clients", type=int, default=NUM_CLIENTS)
    arguments = parser.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory() as directory:
        place = arguments.url or Path(directory) / "ledger.sqlite"
        measure(LedgerStore.at(place, key=Path(directory) / "ledger.key"), arguments.clients)


def measure(store: LedgerStore, num_clients: int) -> None:
    """Prints how long each use of a large ledger takes."""
    plan = make_plan()
    show("build", [build(store, plan, num_clients)])
    with Ledger(store) as ledger:
        claims = [timed(partial(reserve, ledger, plan, f"new{run}", "client-0")) for run in range(5)]
        show("claim on 1,000 blocks", claims)
        show("what is spent, over all blocks", [timed(ledger.spending)])
        show("what a run cost, over all clients", [timed(lambda: ledger.costs("r0"))])
        num_blocks = len(ledger.spending())
    show("release", [timed(partial(release, store, number)) for number in range(1, 21)])
    show("full check", [timed(lambda: print(num_blocks, "blocks,", check_ledger(store)))])
    if store.path is not None:
        print(f"{store.path.stat().st_size / 1e6:.0f} MB")


def build(store: LedgerStore, plan: PrivacyPlan, num_clients: int) -> float:
    """Returns how long it took to make every client claim all its blocks, `NUM_RUNS` times."""
    start = time.perf_counter()
    with Ledger(store) as ledger:
        for run in range(NUM_RUNS):
            for client in range(num_clients):
                reserve(ledger, plan, f"r{run}", f"client-{client}")
    return time.perf_counter() - start


def reserve(ledger: Ledger, plan: PrivacyPlan, run_id: str, client: str) -> None:
    """Claims all blocks of `client`."""
    spans = newest_spans("2026-10-31", NUM_DAYS)
    ledger.reserve(
        run_id=run_id,
        client=client,
        terms="{}",
        terms_digest="d",
        plan=plan,
        blocks=[Block(client=client, span=span, split=split) for span in spans for split in plan.splits],
        policy=POLICY,
    )


def release(store: LedgerStore, server_round: int) -> None:
    """Does what a node does for one request: look for an answer, read the terms, commit."""
    identity = ReleaseId(run_id="new0", client="client-0", step="train", server_round=server_round)
    with Ledger(store) as ledger:
        ledger.stored_reply(identity, "d")
        ledger.terms("new0", "client-0")
        ledger.commit(identity, request_digest="d", reply=bytes(40_000))


def make_plan() -> PrivacyPlan:
    """Returns a plan of seven charges for each day: four on its training block, three on the other."""

    def counts(step: str, *splits: Split) -> Query:
        return Query(step=step, splits=splits, mechanism=NoisyHistograms(noise_stddev=30.0, num_histograms=1))

    training = DpSgd(
        sampling_probability=0.01, clipping_norm=1.0, noise_multiplier=2.0, num_rounds=20, local_steps=1
    )
    return PrivacyPlan(
        private=True,
        epsilon=1.0,
        delta=1e-5,
        keyed=True,
        randomness="secure",
        queries={
            "labels": counts("statistics", "train", "eval"),
            "columns": counts("statistics", "train", "eval"),
            "features": counts("preprocess", "train"),
            "training": Query(step="train", splits=("train",), mechanism=training),
            "evaluation": counts("analyze", "eval"),
        },
    )


def timed(action: Callable[[], object]) -> float:
    """Returns how long `action` takes in seconds."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def show(name: str, samples: Sequence[float]) -> None:
    """Prints the median and the longest of `samples`."""
    print(f"{name:<36} {statistics.median(samples):8.3f} s   longest {max(samples):8.3f} s", flush=True)


if __name__ == "__main__":
    main()
