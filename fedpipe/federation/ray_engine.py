"""The engine for many processors: the same ServerApp and ClientApp, the clients in Ray's processes.

Flower's own simulation gives its nodes and its ServerApp no configuration, hands a node to any process
that is free, and reports a failed ServerApp by another error. So Ray's actors stand behind a Grid of ours:
a node stays with the actor that answered for it first, where its records were read, and the
ServerApp runs in the caller's thread.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Iterable, Sequence

from fedpipe.federation import flower_compat
from fedpipe.federation.local_grid import LocalGrid, NodeConfig, run_server_app
from fedpipe.federation.ray_actors import Answer, Station, await_ready, ray_stations

import ray  # isort: skip
from flwr.app import Message  # isort: skip
from flwr.clientapp import ClientApp  # isort: skip
from flwr.serverapp import ServerApp  # isort: skip

PULL_SECONDS = 0.5
DEPTH = 2  # messages in an actor's hands: one at work, one at hand, so that it never waits for us

logger = logging.getLogger(__name__)


class RayGrid(LocalGrid):
    """Hands messages to actors and collects what they answer. All of it happens inside calls: no thread."""

    def __init__(self, stations: Sequence[Station], node_configs: Sequence[NodeConfig]) -> None:
        super().__init__(node_configs)
        self._stations = stations
        self._homes: dict[int, Station] = {}
        self._unplaced: deque[Message] = deque()
        self._at_work: dict[ray.ObjectRef[Answer], tuple[Message, Station]] = {}
        self._replies: dict[str, Message] = {}
        self._warm = False

    def get_node_ids(self) -> Iterable[int]:
        """Returns all nodes, as soon as there are processes to answer for them."""
        if not self._warm:
            await_ready(self._stations)
            self._warm = True
        return super().get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Takes `messages`; those of a node that was asked before wait for the actor that answered."""
        identities = []
        for message in messages:
            identities.append(flower_compat.address(message, self._run.run_id))
            home = self._homes.get(message.metadata.dst_node_id)
            (home.waiting if home else self._unplaced).append(message)
        self._hand_out()
        return identities

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Returns the replies to `message_ids` that have arrived, after waiting for them a little."""
        wanted = list(message_ids)
        self._work(wanted, PULL_SECONDS)
        return [self._replies.pop(identity) for identity in wanted if identity in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Delivers `messages` and returns the replies that arrive in `timeout` seconds, or all."""
        wanted = list(self.push_messages(messages))
        self._work(wanted, timeout)
        return self.pull_messages(wanted)

    def _work(self, wanted: Sequence[str], seconds: float | None) -> None:
        """Keeps the actors busy until all of `wanted` have arrived, or `seconds` have passed."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while self._at_work and any(identity not in self._replies for identity in wanted):
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            done, _ = ray.wait(list(self._at_work), timeout=left)
            for future in done:
                self._take_in(future)
            self._hand_out()
            if not done:
                return

    def _hand_out(self) -> None:
        for station in self._stations:
            while station.num_in_hand < DEPTH and (message := self._next_for(station)):
                context = self._contexts[message.metadata.dst_node_id]
                self._at_work[station.actor.answer.remote(message, context)] = (message, station)
                station.num_in_hand += 1

    def _next_for(self, station: Station) -> Message | None:
        """Returns what `station` does next; a node that has no home yet finds one here."""
        for waiting in (station.waiting, self._unplaced):
            while waiting:
                message = waiting.popleft()
                if not _expired(message):
                    self._homes[message.metadata.dst_node_id] = station
                    return message
        return None

    def _take_in(self, future: ray.ObjectRef[Answer]) -> None:
        message, station = self._at_work.pop(future)
        station.num_in_hand -= 1
        try:
            answer = ray.get(future)
        except ray.exceptions.RayError as error:
            # The process died twice over this message; what it was doing is nobody's business.
            logger.warning("A client's process failed with %s.", type(error).__name__)
            reply = flower_compat.give_id(flower_compat.failure_reply(message))
        else:
            reply = answer.reply
            self._contexts[message.metadata.dst_node_id] = answer.context
            _log(answer.records)
        self._replies[message.metadata.message_id] = reply


def _expired(message: Message) -> bool:
    """Whether nobody waits for the answer any more: it would cost a release that is never used."""
    return time.time() > message.metadata.created_at + message.metadata.ttl


def _log(records: Iterable[logging.LogRecord]) -> None:
    """Logs here what an actor logged, so that it goes wherever the caller sends such records."""
    for record in records:
        origin = logging.getLogger(record.name)
        if origin.isEnabledFor(record.levelno):
            origin.handle(record)


def run_on_ray(
    server_app: ServerApp,
    client_app: ClientApp,
    *,
    node_configs: Sequence[NodeConfig],
    run_config: NodeConfig,
    num_actors: int | None = None,
) -> None:
    """Runs `server_app` to its end against one `client_app` per entry of `node_configs`.

    Args:
      server_app: runs here, in the calling thread; what it raises is raised.
      client_app: runs in `num_actors` processes.
      node_configs: what each node is told of itself.
      run_config: what the ServerApp is told.
      num_actors: one for each processor by default, and never more than there are nodes.

    Raises:
      FederationError: Ray or its processes do not start.
    """
    count = max(1, min(num_actors or _num_processors(), len(node_configs)))
    with ray_stations(client_app, count) as stations:
        run_server_app(server_app, RayGrid(stations, node_configs), run_config)


def _num_processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
