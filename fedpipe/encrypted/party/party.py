"""One compute party: it sees two of three shares, and what ABY3 sends it (Mohassel and Rindal 2018)."""

from __future__ import annotations

import queue
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from . import channel, endpoint, lifeline
from .inbox import Inbox
from .weights import Weights

_PURGE_SECONDS = 1.0


class Party:
    """Carries out the coordinator's orders. Memory of a request ends with its ticket at the latest."""

    def __init__(self, settings: Dict[str, Any]) -> None:
        self._settings = settings
        self._coordinator: Optional[channel.Channel] = None
        self._orders: queue.Queue[channel.Message] = queue.Queue()
        self._inbox = Inbox(self._tell_ready, settings["max_requests"])
        self._weights = Weights()

    def serve(self) -> None:
        """Runs until the coordinator is gone."""
        self._start_computing()
        with socket.create_server(tuple(self._settings["control"])) as listener:
            self._coordinator = channel.accept(listener, self._settings["control_token"])
        self._coordinator.send({"event": "ready", "index": self._settings["index"], "secure_random": True})
        self._open_endpoint()
        threading.Thread(target=self._work, name="work", daemon=True).start()
        threading.Thread(target=self._purge, name="purge", daemon=True).start()
        for message in self._coordinator:
            if message["op"] == "ping":
                self._pong()
            else:
                self._orders.put(message)

    def _start_computing(self) -> None:
        from .runtime import Staging, configure

        config = configure(self._settings["hosts"])
        index = self._settings["index"]
        self._server = config.start_server(f"server{index}")
        self._staging = Staging(self._server.target, index)

    def _open_endpoint(self) -> None:
        tls = self._settings["tls"]
        desk = endpoint.Desk(
            secret=bytes.fromhex(self._settings["secret"]),
            inbox=self._inbox,
            weights=self._weights,
            width=self._settings["input_width"],
            max_bytes=self._settings["max_bytes"],
        )
        listener = socket.socket(fileno=self._settings["listener"])
        endpoint.open_endpoint(listener, desk, endpoint.server_context(*tls) if tls else None)

    def _tell_ready(self, request_id: str, num_rows: int, expires: float) -> None:
        self._send({"event": "submitted", "id": request_id, "rows": num_rows, "expires": expires})

    def _pong(self) -> None:
        held = {"resident_bytes": lifeline.resident_bytes(), "num_held": len(self._inbox)}
        self._send({"event": "pong", **held})

    def _send(self, message: channel.Message) -> None:
        if self._coordinator is not None:
            self._coordinator.send(message)

    def _work(self) -> None:
        """Does one order after the other; a failure ends the process, and with it the committee."""
        try:
            while True:
                order = self._orders.get()
                _DEEDS[order["op"]](self, order)
        except BaseException as error:
            # The type only: a message of TensorFlow may show values.
            self._send({"event": "fault", "error": type(error).__name__})
            raise

    def _stage_weights(self, order: channel.Message) -> None:
        from .runtime import WEIGHTS

        for number, pair in enumerate(self._weights.take(order["count"])):
            self._staging.put(WEIGHTS, number, pair)
        self._send({"event": "weights"})

    def _run(self, order: channel.Message) -> None:
        from .runtime import INPUT

        bucket = order["bucket"]
        joined = self._inbox.take(_wanted(order), self._settings["input_width"], bucket)
        self._staging.put(f"{INPUT}-{bucket}", order["key"], joined)

    def _answer(self, order: channel.Message) -> None:
        from .runtime import OUTPUT

        output = self._staging.take(f"{OUTPUT}-{order['bucket']}", order["key"])
        self._inbox.answer(_wanted(order), output)

    def _purge(self) -> None:
        while True:
            time.sleep(_PURGE_SECONDS)
            self._inbox.purge()


_DEEDS = {"weights": Party._stage_weights, "run": Party._run, "answer": Party._answer}


def _wanted(order: channel.Message) -> List[Tuple[str, int]]:
    return [(request_id, rows) for request_id, rows in order["wanted"]]


def main() -> None:
    """Runs a party with the settings on standard input."""
    settings = lifeline.begin()
    Path("/proc/self/comm").write_text(f"party{settings['index']}")
    Party(settings).serve()
    sys.exit(1)
