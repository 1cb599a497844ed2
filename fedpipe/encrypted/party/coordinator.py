"""Starts the joint computation when all three parties hold a request's shares. It moves ids, never shares.

Whoever controls this process could order the parties' TensorFlow to hand out shares: docs/encrypted.md.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

from . import channel, lifeline

_START_SECONDS = 300.0
_PING_SECONDS = 1.0
_WEIGHTS_SECONDS = 120.0
_TRACING_SECONDS = 300.0
Wanted = List[Tuple[str, int]]


@dataclass
class _Request:
    rows: int
    expires: float
    parties: Set[int] = field(default_factory=set)


class Requests:
    """What the parties hold, and which of it is complete."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._requests: OrderedDict[str, _Request] = OrderedDict()
        self._complete: OrderedDict[str, _Request] = OrderedDict()
        self._changed = threading.Condition()

    def submitted(self, party: int, request_id: str, rows: int, expires: float) -> None:
        """Notes that a party holds its pair."""
        with self._changed:
            request = self._requests.setdefault(request_id, _Request(rows, expires))
            request.parties.add(party)
            if len(request.parties) == 3:
                self._complete[request_id] = self._requests.pop(request_id)
                self._changed.notify()

    def next_batch(self) -> Wanted:
        """Returns the oldest complete requests that fit together; waits for one."""
        with self._changed:
            while not self._complete:
                self._changed.wait()
            batch: Wanted = []
            total = 0
            for request_id, request in list(self._complete.items()):
                if total + request.rows > self._max_rows:
                    break
                del self._complete[request_id]
                if request.expires > time.time():
                    batch.append((request_id, request.rows))
                    total += request.rows
            return batch

    def purge(self) -> None:
        """Forgets requests whose time is over."""
        now = time.time()
        with self._changed:
            for each in (self._requests, self._complete):
                for request_id in [key for key, request in each.items() if request.expires <= now]:
                    del each[request_id]


class Coordinator:
    """Three channels to parties, one to the operator, and the traced graphs."""

    def __init__(self, settings: Dict[str, Any], operator: channel.Channel) -> None:
        self._settings = settings
        self._operator = operator
        self._buckets: List[int] = sorted(settings["buckets"])
        self._requests = Requests(self._buckets[-1])
        self._counters = {"num_requests": 0, "num_rows": 0, "num_runs": 0}
        self._held: Dict[int, channel.Message] = {}
        self._heard: List[float] = []
        self._have_weights = threading.Semaphore(0)
        self._key = 0
        self._under_way: Optional[Tuple[str, float]] = None
        self._steps: Dict[int, Any] = {}

    def serve(self) -> None:
        """Connects, reports, then does what the operator says until he is gone."""
        token = self._settings["control_token"]
        found = [
            channel.connect(tuple(address), token, _START_SECONDS) for address in self._settings["controls"]
        ]
        self._parties = [party for party, _ in found]
        for index, (_, first) in enumerate(found):
            if not first.get("secure_random"):
                self.fault(f"Expected the secure random operation in party {index}, found it missing.")
        self._connect()
        self._heard = [time.monotonic()] * 3
        for index in range(3):
            threading.Thread(target=self._listen, args=(index,), daemon=True).start()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        self._operator.send({"event": "ready"})
        for message in self._operator:
            if message["op"] == "load":
                self._load(message["layers"], message["num_weights"])
            else:
                self._operator.send({"event": "status", **self.status()})

    def status(self) -> Dict[str, Any]:
        """Returns counters and the memory of each process."""
        held = {str(index): dict(pong, event=None) for index, pong in sorted(self._held.items())}
        memory = [self._held.get(index, {}).get("resident_bytes") for index in range(3)]
        return {
            **self._counters,
            "num_held": [each.get("num_held") for each in held.values()],
            "resident_bytes": {"parties": memory, "coordinator": lifeline.resident_bytes()},
            "num_traces": {
                str(bucket): step.experimental_get_tracing_count() for bucket, step in self._steps.items()
            },
        }

    def fault(self, reason: str) -> None:
        """Says why and ends the process: a committee is replaced, never mended."""
        try:
            self._operator.send({"event": "fault", "error": reason})
        finally:
            os._exit(1)

    def _connect(self) -> None:
        from .runtime import configure, connect, tfe

        config = configure(self._settings["hosts"])
        tfe.set_config(config)
        connect(self._settings["hosts"], self._settings["coordinator_host"])
        tfe.set_protocol(tfe.protocol.ABY3())
        self._prot = tfe.get_protocol()

    def _listen(self, index: int) -> None:
        for message in self._parties[index]:
            self._heard[index] = time.monotonic()
            if message["event"] == "submitted":
                self._requests.submitted(index, message["id"], message["rows"], message["expires"])
            elif message["event"] == "pong":
                self._held[index] = message
            elif message["event"] == "weights":
                self._have_weights.release()
            else:
                self.fault(f"Expected party {index} to go on, found {message.get('error')}.")
        self.fault(f"Expected party {index} to live, found it gone.")

    def _watch(self) -> None:
        """Ends everything when a party is silent, or a run takes too long."""
        while True:
            time.sleep(_PING_SECONDS)
            self._requests.purge()
            for party in self._parties:
                party.send({"op": "ping"})
            now, limit = time.monotonic(), self._settings["silence_seconds"]
            for index, heard in enumerate(self._heard):
                if now - heard > limit:
                    self.fault(f"Expected an answer of party {index} within {limit:.0f} s, found none.")
            under_way = self._under_way
            if under_way is not None and now > under_way[1]:
                self.fault(f"Expected {under_way[0]} to end in time, found it still going.")

    def _load(self, layers: List[Dict[str, Any]], num_weights: int) -> None:
        """Takes the weights over from the parties' desks and traces every bucket before anybody waits."""
        from .network import make_step, take_weights

        with self._bounded("the handing over of weights", _WEIGHTS_SECONDS):
            self._tell_all({"op": "weights", "count": num_weights})
            for _ in self._parties:
                self._have_weights.acquire()
            self._weights = take_weights(self._prot, num_weights)
        seconds = {}
        for bucket in self._buckets:
            started = time.monotonic()
            with self._bounded(f"the tracing of {bucket} rows", _TRACING_SECONDS):
                width = self._settings["input_width"]
                self._steps[bucket] = make_step(self._prot, layers, bucket, width, self._weights)
                self._run([], bucket)
                self._run([], bucket)  # the first call leaves something to optimise
            seconds[bucket] = time.monotonic() - started
        threading.Thread(target=self._work, name="work", daemon=True).start()
        self._operator.send({"event": "loaded", "tracing_seconds": seconds})

    @contextlib.contextmanager
    def _bounded(self, what: str, seconds: float) -> Iterator[None]:
        """Nothing can interrupt TensorFlow: what takes longer is a fault, which `_watch` declares."""
        self._under_way = what, time.monotonic() + seconds
        yield
        self._under_way = None

    def _tell_all(self, message: channel.Message) -> None:
        for party in self._parties:
            party.send(message)

    def _work(self) -> None:
        try:
            while True:
                batch = self._requests.next_batch()
                if batch:
                    with self._bounded("a run", self._settings["deadline_seconds"]):
                        self._run(batch, self._bucket(sum(rows for _, rows in batch)))
                    self._counters["num_requests"] += len(batch)
                    self._counters["num_rows"] += sum(rows for _, rows in batch)
        except BaseException as error:
            # The type only: a message of TensorFlow may show values.
            self.fault(f"Expected a run to succeed, found {type(error).__name__}.")

    def _bucket(self, rows: int) -> int:
        return next(bucket for bucket in self._buckets if bucket >= rows)

    def _run(self, batch: Wanted, bucket: int) -> None:
        from .runtime import tf

        self._key += 1
        run = {"key": self._key, "bucket": bucket, "wanted": batch}
        self._tell_all({"op": "run", **run})
        self._steps[bucket](tf.constant(self._key, tf.int64), self._weights).numpy()
        self._tell_all({"op": "answer", **run})
        self._counters["num_runs"] += 1


def main() -> None:
    """Runs the coordinator with the settings on standard input."""
    settings = lifeline.begin()
    Path("/proc/self/comm").write_text("coordinator")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(settings["operator"])
        operator = channel.Channel(connection)
        coordinator = Coordinator(settings, operator)
        try:
            coordinator.serve()
        except Exception as error:
            coordinator.fault(f"Expected the committee to start, found {type(error).__name__}.")
    sys.exit(1)
