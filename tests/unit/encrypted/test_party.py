"""What a party holds, for how long, and for whom."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from fedpipe.encrypted.party import pairs, tickets
from fedpipe.encrypted.party.endpoint import Desk, open_endpoint
from fedpipe.encrypted.party.inbox import FullError, Inbox, UsedError
from fedpipe.encrypted.party.weights import Weights

SECRET = bytes(32)
PAIR = (np.array([[1, 2], [3, 4]]), np.array([[5, 6], [7, 8]]))


def ticket(*, rows: int = 2, seconds: float = 30.0, kind: int = tickets.ROWS, secret: bytes = SECRET) -> str:
    return tickets.issue(secret, tickets.Ticket(kind, rows, time.time() + seconds))


class Heard(list[str]):
    """Ids that were reported as complete."""

    def __call__(self, request_id: str, num_rows: int, expires: float) -> None:
        self.append(request_id)


@pytest.mark.parametrize("place", range(0, 60, 7))
def test_altered_ticket_is_refused(place: int) -> None:
    issued = ticket()
    altered = issued[:place] + ("A" if issued[place] != "A" else "B") + issued[place + 1 :]
    with pytest.raises(tickets.InvalidTicketError):
        tickets.check(SECRET, altered, time.time())


def test_ticket_of_another_committee_is_refused() -> None:
    with pytest.raises(tickets.InvalidTicketError):
        tickets.check(SECRET, ticket(secret=tickets.new_secret()), time.time())


def test_ticket_ends_with_its_deadline() -> None:
    issued = tickets.issue(SECRET, tickets.Ticket(tickets.ROWS, 1, 100.0))
    assert tickets.check(SECRET, issued, now=99.9).number == 1
    with pytest.raises(tickets.InvalidTicketError):
        tickets.check(SECRET, issued, now=100.0)


@pytest.mark.parametrize("text", ["", "é", "AAAA", "A" * 61, "../x", "A" * 4000], ids=range(6))
def test_no_ticket_is_refused(text: str) -> None:
    with pytest.raises(tickets.InvalidTicketError):
        tickets.check(SECRET, text, 0.0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"FPS1",
        b"FPS2" + pairs.encode(PAIR)[4:],
        pairs.encode(PAIR)[:-1],
        pairs.encode(PAIR) + b"\0",
        b"FPS1\xff\xff\xff\xff",
        b"FPS1\2\0\0\0" + b"\xff" * 8,
    ],
    ids=["nothing", "magic", "other magic", "short", "long", "rank", "shape"],
)
def test_malformed_pair_is_refused(data: bytes) -> None:
    with pytest.raises(pairs.InvalidPairError):
        pairs.decode(data)


def test_request_id_works_once() -> None:
    inbox = Inbox(Heard(), 10)
    inbox.submit("a", PAIR, time.time() + 30)
    inbox.answer([("a", 2)], PAIR)
    with pytest.raises(UsedError):
        inbox.submit("a", PAIR, time.time() + 30)


def test_full_inbox_takes_no_more() -> None:
    inbox = Inbox(Heard(), 1)
    inbox.submit("a", PAIR, time.time() + 30)
    with pytest.raises(FullError):
        inbox.submit("b", PAIR, time.time() + 30)


def test_shares_end_with_their_ticket() -> None:
    inbox = Inbox(Heard(), 10)
    answer = inbox.submit("a", PAIR, 100.0)
    assert inbox.purge(now=99.0) == []
    assert inbox.purge(now=100.0) == ["a"]
    assert len(inbox) == 0
    assert answer.cancelled()


def test_joined_requests_get_their_own_rows_back() -> None:
    inbox = Inbox(Heard(), 10)
    one, two = (np.array([[9, 9]]), np.array([[8, 8]])), PAIR
    answers = [inbox.submit(name, pair, time.time() + 30) for name, pair in (("one", one), ("two", two))]
    wanted = [("one", 1), ("two", 2)]
    joined = inbox.take(wanted, width=2, num_rows=4)
    assert joined[0].tolist() == [[9, 9], [1, 2], [3, 4], [0, 0]]
    inbox.answer(wanted, joined)
    for answer, pair in zip(answers, (one, two), strict=True):
        assert np.array_equal(answer.result(0)[0], pair[0])
        assert np.array_equal(answer.result(0)[1], pair[1])


def test_request_that_is_gone_leaves_others_rows_in_place() -> None:
    inbox = Inbox(Heard(), 10)
    inbox.submit("late", PAIR, time.time() + 30)
    inbox.submit("two", PAIR, time.time() + 30)
    inbox.forget("late")
    assert inbox.take([("late", 2), ("two", 2)], 2, 4)[0].tolist() == [[0, 0], [0, 0], [1, 2], [3, 4]]


def test_inputs_are_dropped_once_they_were_taken() -> None:
    inbox = Inbox(Heard(), 10)
    inbox.submit("a", PAIR, time.time() + 30)
    inbox.take([("a", 2)], 2, 2)
    assert not inbox.take([("a", 2)], 2, 2)[0].any()


@pytest.fixture
def door() -> tuple[Any, Inbox, Heard]:
    """A party's endpoint, with nobody to compute behind it."""
    listener, heard = socket.create_server(("127.0.0.1", 0)), Heard()
    inbox = Inbox(heard, 2)
    desk = Desk(secret=SECRET, inbox=inbox, weights=Weights(), width=2, max_bytes=200)
    open_endpoint(listener, desk, tls=None)
    return listener.getsockname(), inbox, heard


def put(address: Any, request_id: str, body: bytes, method: str = "PUT", prefix: str = "/v1/shares/") -> Any:
    connection = http.client.HTTPConnection(*address, timeout=20)
    connection.request(method, prefix + request_id, body)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_shares_come_back_as_an_output(door: Any) -> None:
    address, inbox, heard = door
    issued = ticket()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(put, address, issued, pairs.encode(PAIR))
        while issued not in heard:
            time.sleep(0.01)
        inbox.answer([(issued, 2)], PAIR)
        assert answer.result() == (200, pairs.encode(PAIR))
    assert put(address, issued, pairs.encode(PAIR))[0] == 409


@pytest.mark.parametrize(
    ("wanted", "body", "status"),
    [
        ({"secret": b"another committee's"}, pairs.encode(PAIR), 403),
        ({"seconds": -1}, pairs.encode(PAIR), 403),
        ({}, b"no pair", 400),
        ({"rows": 1}, pairs.encode(PAIR), 400),
        ({}, b"x" * 201, 413),
    ],
    ids=["foreign", "late", "malformed", "other rows", "too large"],
)
def test_wrong_request_is_refused_and_nothing_is_kept(
    door: Any, wanted: dict[str, Any], body: bytes, status: int
) -> None:
    address, inbox, _ = door
    found, message = put(address, ticket(**wanted), body)
    assert (found, len(inbox)) == (status, 0)
    assert message.startswith(b'{"error": "Expected')


def test_missing_neighbours_end_in_a_refusal_at_the_deadline(door: Any) -> None:
    address, inbox, _ = door
    assert put(address, ticket(seconds=0.3), pairs.encode(PAIR))[0] == 504
    assert len(inbox) == 0


def test_other_paths_and_methods_are_refused(door: Any) -> None:
    address, *_ = door
    assert put(address, "x", b"", prefix="/v2/")[0] == 404
    assert put(address, "", b"", method="GET")[0] == 404
    assert put(address, "", b"", method="DELETE")[0] == 501


def test_each_weight_is_taken_once(door: Any) -> None:
    address, *_ = door
    codes = [put(address, ticket(rows=0, kind=tickets.WEIGHTS), pairs.encode(PAIR))[0] for _ in range(2)]
    assert codes == [200, 409]


def test_slow_handshake_keeps_nobody_waiting(tmp_path: Any) -> None:
    from tests.unit.encrypted.certificates import LOCAL, Authority

    authority = Authority.create(tmp_path)
    certificate, key = authority.issue(*LOCAL)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))
    desk = Desk(secret=SECRET, inbox=Inbox(Heard(), 2), weights=Weights(), width=2, max_bytes=200)
    open_endpoint(listener, desk, context)
    with socket.create_connection(listener.getsockname()):  # says nothing
        trusting = ssl.create_default_context(cafile=str(authority.path))
        connection = http.client.HTTPSConnection(*listener.getsockname(), timeout=20, context=trusting)
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
    assert threading.active_count() < 50
