"""`python -m simulations.benchmarks.forked_nodes HOME=DATA ...`: nodes that share what they import.

Each is what `fedpipe client join` is: a process with its own key, policy and ledger. But one process
imports TensorFlow and all else before it forks them, so that those pages exist once. It must have
one thread then: a lock that another thread held would stay locked in every child. So NumPy's and Arrow's
are not started.
"""

from __future__ import annotations

import os

os.environ |= {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}

import gc
import importlib
import multiprocessing
import signal
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

from clients.home import NodeHome

IMPORTED = (
    "clients.join",
    "clients.app",
    "fedpipe.federation.flower_node",
    "fedpipe.learning.book_keeping_kernel",
    "fedpipe.learning.architectures",
    "pyarrow.parquet",
)


def main() -> None:
    """Serves until SIGTERM."""
    for module in IMPORTED:
        importlib.import_module(module)
    threads = os.listdir("/proc/self/task")
    if len(threads) > 1:
        raise RuntimeError(f"Expected one thread before nodes are forked, found {len(threads)}.")
    gc.freeze()  # a collection would write to, and so copy, every shared page that holds an object
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    nodes = [_fork(pair) for pair in sys.argv[1:]]
    signal.sigwait({signal.SIGTERM})
    for node in nodes:
        node.terminate()
    for node in nodes:
        node.join()


def _fork(pair: str) -> BaseProcess:
    home, _, data = pair.partition("=")
    node = multiprocessing.get_context("fork").Process(target=_join, args=(Path(home), data))
    node.start()
    return node


def _join(home: Path, data: str) -> None:
    from clients.join import join

    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    join(NodeHome(home), [data])


if __name__ == "__main__":
    main()
