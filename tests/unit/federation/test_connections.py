from __future__ import annotations

from typing import Any

import pytest

from fedpipe.federation.connections import ConnectionLimits, Connections
from fedpipe.federation.refusals import Refusals

HERE, THERE = "192.0.2.1", "192.0.2.2"
LIMITS = ConnectionLimits(
    max_strangers=6,
    max_strangers_per_address=4,
    max_new_per_second=1e6,
    proof_seconds=20.0,
    max_refused_calls=3,
    max_per_key=2,
    body_seconds=60.0,
)


class Port:
    """Connections to a port, a clock that is set by hand, and what was ended."""

    def __init__(self, limits: ConnectionLimits = LIMITS) -> None:
        self.now = 0.0
        self.ended: list[int] = []
        self.counted: list[str] = []
        self.connections = Connections(limits, Refusals(self.counted.append, self.clock), self.clock)

    def clock(self) -> float:
        return self.now

    def open(self, address: str, number: int) -> str:
        name = self.connections.open((address, number), lambda: self.ended.append(number))
        assert name is not None
        return name


def test_an_address_that_opens_more_crowds_out_its_own_oldest_stranger() -> None:
    port = Port()
    for number in range(4):
        port.open(HERE, number)
        port.now += 1
    port.open(THERE, 10)
    assert not port.ended

    port.open(HERE, 4)
    assert port.ended == [0]


def test_who_has_said_nothing_goes_first() -> None:
    port = Port()
    names = [port.open(HERE, number) for number in range(4)]
    port.connections.heard(names[0])

    port.open(HERE, 4)
    assert port.ended == [1]


def test_members_are_never_crowded_out() -> None:
    port = Port()
    assert port.connections.proven(port.open(HERE, 0), b"key")
    for number in range(1, 40):
        port.open(HERE, number)

    assert 0 not in port.ended
    assert len(port.connections) == 1 + LIMITS.max_strangers_per_address


def test_a_full_port_takes_from_whoever_holds_most() -> None:
    port = Port()
    port.open(THERE, 0)
    port.open(THERE, 1)
    for number in range(2, 6):
        port.open(HERE, number)

    port.open("198.51.100.7", 6)
    assert port.ended == [2]


def test_a_flood_from_one_address_is_turned_away_and_others_are_not() -> None:
    port = Port(ConnectionLimits(max_new_per_second=2.0))
    taken = [port.connections.open((HERE, number), lambda: None) for number in range(30)]
    assert sum(name is not None for name in taken) == 10
    assert port.connections.open((THERE, 1), lambda: None) is not None

    port.now += 1.0
    taken = [port.connections.open((HERE, number), lambda: None) for number in range(30)]
    assert sum(name is not None for name in taken) == 2


def test_a_stranger_that_proves_nothing_is_ended_in_time() -> None:
    port = Port()
    member, _ = port.open(HERE, 0), port.open(HERE, 1)
    assert port.connections.proven(member, b"key")

    port.now += LIMITS.proof_seconds + 1
    port.connections.end_late()
    assert port.ended == [1]


def test_a_member_whose_content_does_not_come_is_ended() -> None:
    port = Port()
    slow, quick = port.open(HERE, 0), port.open(HERE, 1)
    for name in (slow, quick):
        port.connections.proven(name, b"key")
    with port.connections.awaiting_body(slow):
        with port.connections.awaiting_body(quick):
            port.now += 1
        port.now += LIMITS.body_seconds
        port.connections.end_late()

    assert port.ended == [0]


def test_refused_calls_in_a_row_end_a_connection() -> None:
    port = Port()
    member, stranger = port.open(HERE, 0), port.open(HERE, 1)
    for _ in range(5):
        port.connections.refused(member)
        port.connections.proven(member, b"key")
        port.connections.refused(stranger)

    assert port.ended == [1]


def test_a_key_that_opens_more_loses_its_oldest_connection() -> None:
    port = Port()
    for number in range(3):
        assert port.connections.proven(port.open(HERE, number), b"key")
    assert port.connections.proven(port.open(HERE, 3), b"another")

    assert port.ended == [0]


def test_who_is_gone_proves_nothing() -> None:
    port = Port()
    name = port.open(HERE, 0)
    port.connections.closed(name)

    assert not port.connections.proven(name, b"key")
    assert not port.connections.proven("made up", b"key")
    assert len(port.connections) == 0


@pytest.mark.parametrize(
    ("address", "neighbour", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
    ],
)
def test_the_addresses_that_one_host_may_vary_count_as_one(address: str, neighbour: str, same: Any) -> None:
    port = Port(ConnectionLimits(max_new_per_second=0.2))
    assert port.connections.open((address, 1), lambda: None)

    assert (port.connections.open((neighbour, 1), lambda: None) is None) == same


def test_every_ended_connection_is_counted_and_named_by_address() -> None:
    port = Port()
    for number in range(6):
        port.open(HERE, number)

    assert port.counted == ["connection", "connection"]
