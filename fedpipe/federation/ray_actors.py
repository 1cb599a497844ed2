"""Processes that answer for nodes: a private Ray on this machine, and one warm actor per process."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from logging.handlers import QueueHandler
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NoReturn

from fedpipe.errors import FederationError
from fedpipe.federation import flower_compat  # noqa: F401  first: it keeps the import of flwr light
from fedpipe.federation.local_grid import answer_message
from fedpipe.learning.threads import ONE_THREAD, environment

import ray  # isort: skip
from flwr.app import Context, Message  # isort: skip
from flwr.clientapp import ClientApp  # isort: skip

LOOPBACK = "127.0.0.1"
OBJECT_STORE_BYTES = 256 * 2**20  # for messages under way; more go to a file
MAX_RESTARTS = 3
MAX_FOLDER_BYTES = 20
SHORT_FOLDER = "/tmp"  # noqa: S108  what is made there is for its owner alone
HOME = Path(__file__).resolve().parents[2]

# What Ray's processes are started with: there is one for each processor, so one thread is enough.
ENVIRONMENT = ONE_THREAD | {"RAY_USAGE_STATS_ENABLED": "0"}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Answer:
    """A node's reply, its context afterwards, and what was logged meanwhile."""

    reply: Message
    context: Context
    records: list[logging.LogRecord]


class NodeActor:
    """Answers for some nodes in a process of its own, where their records and compiled kernels stay."""

    def __init__(self, client_app: bytes, search_path: list[str]) -> None:
        # Names such as `clients` must mean here what they mean to the caller.
        sys.path[:] = search_path
        self._records: SimpleQueue[logging.LogRecord] = SimpleQueue()
        logging.getLogger().addHandler(QueueHandler(self._records))
        self._client_app: ClientApp = ray.cloudpickle.loads(client_app)
        # Slow, and better done while the coordinator is still planning.
        import fedpipe.learning.tensorflow_runtime  # noqa: F401

    def ready(self) -> None:
        """Returns when the process is warm."""

    def answer(self, message: Message, context: Context) -> Answer:
        """Returns what the node of `context` answers."""
        reply = answer_message(self._client_app, message, context)
        records = [self._records.get() for _ in range(self._records.qsize())]
        return Answer(reply=reply, context=context, records=records)


@dataclass(kw_only=True, eq=False)
class Station:
    """An actor as its caller sees it: what waits for it, and how much it has in hand."""

    actor: Any
    waiting: deque[Message] = field(default_factory=deque)
    num_in_hand: int = 0


@contextmanager
def ray_stations(client_app: ClientApp, num_actors: int) -> Iterator[list[Station]]:
    """Starts Ray and `num_actors` actors; whatever happens in the block, no process of theirs survives it.

    Raises:
      FederationError: Ray runs in this process already, or does not start.
    """
    if ray.is_initialized():
        raise FederationError("Expected no Ray in this process, found one: call ray.shutdown() first.")
    terminate = signal.getsignal(signal.SIGTERM)
    private = tempfile.mkdtemp(prefix="fedpipe-", dir=_short_folder())
    try:
        # Ray opens its own folder to everybody; the one around it stays closed.
        _start(num_actors, Path(private) / "ray")
        _on_terminate(_end)
        actor: Any = ray.remote(NodeActor)
        pickle: Any = ray.cloudpickle
        warm = actor.options(num_cpus=1, max_restarts=MAX_RESTARTS, max_task_retries=1)
        app = pickle.dumps(client_app)
        yield [Station(actor=warm.remote(app, sys.path)) for _ in range(num_actors)]
    finally:
        ray.shutdown()
        _on_terminate(terminate)
        shutil.rmtree(private, ignore_errors=True)


def _start(num_actors: int, directory: Path) -> None:
    search_path = os.pathsep.join([str(HOME), *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        with environment(ENVIRONMENT | {"PYTHONPATH": search_path}):
            ray.init(
                address="local",
                num_cpus=num_actors,
                num_gpus=0,
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                _temp_dir=str(directory),
                # Ray's ports are open to whoever reaches them.
                _node_ip_address=LOOPBACK,
            )
    except Exception as error:
        raise FederationError(
            f"Expected Ray to start on this machine, found {type(error).__name__}: "
            "try again, or use federation.engine=in-process."
        ) from error


def await_ready(stations: Sequence[Station]) -> None:
    """Returns when all actors are warm.

    Raises:
      FederationError: one cannot start.
    """
    try:
        ray.get([station.actor.ready.remote() for station in stations])
    except ray.exceptions.RayError as error:
        raise FederationError(
            f"Expected Ray's processes to start, found {type(error).__name__} (not enough memory?): "
            "lower federation.num_actors, or use federation.engine=in-process."
        ) from error


def _short_folder() -> str:
    """Returns a folder for temporary files; a socket's path has 107 bytes at most, Ray's part takes 80."""
    folder = tempfile.gettempdir()
    return folder if len(os.fsencode(folder)) <= MAX_FOLDER_BYTES else SHORT_FOLDER


def _on_terminate(handler: Any) -> None:
    """Sets what SIGTERM does. Ray's own handler prints a stack; only the main thread has any."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _end(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)  # Ray is shut down on the way out
