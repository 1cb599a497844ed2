"""Which connections to a public port may stay, while it is not yet known who calls.

A connection is a stranger's until a registered key has signed a call on it. Strangers share few places and
keep them for moments only: when an address or the port has no place left, the stranger that came furthest
back goes, first of those that have said nothing yet. So whoever opens connections and waits, or begins
handshakes and never ends them, crowds out nobody but himself, and a member behind the same address finds
a place at once. A flood that goes on can delay that member's *new* connections, by chance; it never touches
those on which members have signed.
"""

from __future__ import annotations

import ipaddress
import itertools
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from fedpipe.federation.refusals import Refusals
from fedpipe.federation.token_buckets import TokenBuckets

BURST_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """What may be held of a public port.

    Attributes:
      max_strangers: connections in all on which nobody has signed yet.
      max_strangers_per_address: of one IPv4 address, or of one IPv6 network of 64 bits, among these.
      max_new_per_second: connections of one address, over five seconds.
      proof_seconds: after which a stranger must be none any more.
      max_refused_calls: on one connection, one after the other.
      max_per_key: connections of one member; a further one ends the oldest.
      body_seconds: for a call's content to arrive.
    """

    max_strangers: int = 256
    max_strangers_per_address: int = 64
    max_new_per_second: float = 20.0
    proof_seconds: float = 20.0
    max_refused_calls: int = 8
    max_per_key: int = 8
    body_seconds: float = 60.0


@dataclass(kw_only=True, eq=False)
class _Connection:
    network: str
    close: Callable[[], None]
    begun: float
    has_spoken: bool = False
    key: bytes | None = None
    num_refused: int = 0
    bodies_due: list[float] = field(default_factory=list)

    def is_late(self, now: float, proof_seconds: float) -> bool:
        """Returns whether a signature, or the content of a call, should have come."""
        unproven = self.key is None and now > self.begun + proof_seconds
        return unproven or any(now > due for due in self.bodies_due)


class Connections:
    """All connections to a port, by names of our own. Every method may be called from any thread.

    Args:
      limits: what may be held.
      refusals: is told of each connection that was ended, and why.
      clock: monotonic, in seconds.
    """

    def __init__(
        self, limits: ConnectionLimits, refusals: Refusals, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits, self._refusals, self._clock = limits, refusals, clock
        self._buckets = TokenBuckets(limits.max_new_per_second, BURST_SECONDS, clock)
        self._open: dict[str, _Connection] = {}
        self._lock = threading.RLock()
        self._prefix = f"fedpipe-{secrets.token_hex(8)}"
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._open)

    def open(self, peer: tuple[str, int], close: Callable[[], None]) -> str | None:
        """Returns the name of a new connection, or None if its address opens too many of them.

        Args:
          peer: address and port of whoever calls.
          close: ends the connection, from any thread and without waiting.
        """
        network, told = network_of(peer[0]), _written(*peer)
        with self._lock:
            if not self._buckets.take(network):
                self._refusals.tell("too many new connections", told)
                return None
            self._make_room(network)
            name = f"{self._prefix}/{next(self._numbers)}/{told}"
            self._open[name] = _Connection(network=network, close=close, begun=self._clock())
        return name

    def _make_room(self, network: str) -> None:
        strangers = {name: each for name, each in self._open.items() if each.key is None}
        crowds = Counter(each.network for each in strangers.values())
        if crowds[network] >= self._limits.max_strangers_per_address:
            crowded = network
        elif len(strangers) >= self._limits.max_strangers:
            crowded = crowds.most_common(1)[0][0]
        else:
            return
        theirs = [name for name, each in strangers.items() if each.network == crowded]
        self._end(
            min(theirs, key=lambda name: (strangers[name].has_spoken, strangers[name].begun)), "crowded"
        )

    def _end(self, name: str, reason: str) -> None:
        ended = self._open.pop(name)
        self._refusals.tell(f"connection ended: {reason}", peer_of(name))
        ended.close()

    def heard(self, name: str) -> None:
        """Notes that a connection has begun a handshake."""
        with self._lock:
            if name in self._open:
                self._open[name].has_spoken = True

    def closed(self, name: str) -> None:
        """Forgets a connection that has come to its end."""
        with self._lock:
            self._open.pop(name, None)

    def proven(self, name: str, key: bytes) -> bool:
        """Notes that a registered `key` has signed a call on a connection; False if that is gone."""
        with self._lock:
            if name not in self._open:
                return False
            connection = self._open[name]
            connection.key, connection.num_refused = key, 0
            same = [each for each, other in self._open.items() if other.key == key]
            if len(same) > self._limits.max_per_key:
                self._end(same[0], "its key has opened others")  # the oldest: a dict keeps the order
            return name in self._open

    def refused(self, name: str) -> None:
        """Notes that a call on a connection was refused, and ends it if that happens too often."""
        with self._lock:
            connection = self._open.get(name)
            if connection is None:
                return
            connection.num_refused += 1
            if connection.num_refused >= self._limits.max_refused_calls:
                self._end(name, "too many refused calls")

    @contextmanager
    def awaiting_body(self, name: str) -> Iterator[None]:
        """Has a connection ended if the block, which waits for a call's content, takes too long."""
        due = self._clock() + self._limits.body_seconds
        with self._lock:
            waiting = self._open[name].bodies_due if name in self._open else []
            waiting.append(due)
        try:
            yield
        finally:
            with self._lock:
                waiting.remove(due)

    def end_late(self) -> None:
        """Ends connections whose proof, or the content of a call, should have come: once a second."""
        now = self._clock()
        with self._lock:
            late = [
                name for name, each in self._open.items() if each.is_late(now, self._limits.proof_seconds)
            ]
            for name in late:
                self._end(name, "too slow")


def _written(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def peer_of(name: str) -> str:
    """Returns the address and port at the other end of a connection, which may be gone.

    >>> peer_of("fedpipe-0123/7/[2001:db8::1]:9092"), peer_of("another")
    ('[2001:db8::1]:9092', 'somebody')
    """
    parts = name.split("/", 2)
    return parts[2] if len(parts) == 3 else "somebody"


def network_of(address: str) -> str:
    """Returns what counts as one address: an IPv4 address, or the 64 bits that one IPv6 host may vary.

    >>> network_of("2001:db8:1:2:3:4:5:6"), network_of("::ffff:192.0.2.7")
    ('2001:db8:1:2::/64', '192.0.2.7')
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False))
