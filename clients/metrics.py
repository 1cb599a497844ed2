"""What a node shows its owner, on her machine: her blocks' budgets, answers, and the last contact."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from clients.budget import list_blocks
from clients.home import NodeHome
from fedpipe.errors import LedgerError

STEPS = ("ingest", "claim", "statistics", "preprocess", "train", "analyze", "finish")
CONNECTED = "connected"


class NodeMetrics:
    """Figures of one node. They are its owner's own: shares are of her ledger, and stay on loopback."""

    def __init__(self, home: NodeHome) -> None:
        self.collectors = CollectorRegistry()
        self._requests = Counter(
            "fedpipe_node_requests",
            "Requests by step and outcome: answered, failed, or the kind of the refusal.",
            ("step", "outcome"),
            registry=self.collectors,
        )
        self._connected = Gauge(
            "fedpipe_node_connected", "1 while the node is connected.", registry=self.collectors
        )
        self._contact = Gauge(
            "fedpipe_node_last_contact_timestamp_seconds",
            "When the server was last reached; 0: never.",
            registry=self.collectors,
        )
        self.collectors.register(_Blocks(home))
        self.is_ready = False

    def on_state(self, state: str) -> None:
        """Notes a change of the connection."""
        self.is_ready = state == CONNECTED
        self._connected.set(self.is_ready)
        if self.is_ready:
            self.on_contact()

    def on_contact(self) -> None:
        """Notes that the server was reached."""
        self._contact.set(time.time())

    def on_answer(self, step: str, outcome: str) -> None:
        """Counts a request."""
        # A server may ask for anything; labels stay few.
        self._requests.labels(step if step in STEPS else "other", outcome).inc()


class _Blocks(Collector):
    """Reads the ledger when it is asked."""

    def __init__(self, home: NodeHome) -> None:
        self._home = home

    def collect(self) -> Iterator[GaugeMetricFamily]:
        readable = GaugeMetricFamily("fedpipe_node_ledger_readable", "1 if the node's ledger can be read.")
        used = GaugeMetricFamily(
            "fedpipe_node_block_used_ratio",
            "Share of a block's lifetime budget that releases and open claims hold.",
            labels=("span", "split"),
        )
        try:
            for row in list_blocks(self._home):
                used.add_metric((row["span"], row["split"]), row["used"])
            readable.add_metric((), 1)
        except LedgerError:
            readable.add_metric((), 0)
        yield readable
        yield used
