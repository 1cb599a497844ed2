"""Strangers at the fleet port, with real sockets, while members go on working."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from fedpipe.federation import pki, relay
from fedpipe.federation.connections import ConnectionLimits
from fedpipe.federation.flower_guard import MAX_CALLS_AT_ONCE
from tests.unit.federation.superlink import (
    LIMITS,
    PATIENCE_SECONDS,
    Federation,
    call,
    ping,
    signature,
    wait_until,
)

import grpc  # isort: skip

PULL = "/flwr.proto.Fleet/PullMessages"


@pytest.fixture
def federation(federation: Federation) -> Federation:
    federation.register("first", "second")
    return federation


@contextmanager
def member(federation: Federation, name: str) -> Iterator[list[str]]:
    """A member that connects, and stays until the block ends."""
    link = federation.link(federation.keys[name])
    with federation.node(link, decide=lambda _: {"client": name}) as states:
        wait_until(lambda: "connected" in states)
        yield states


def connect(federation: Federation) -> socket.socket:
    return socket.create_connection(("127.0.0.1", federation.port), timeout=PATIENCE_SECONDS)


def wait_for_end(end: socket.socket) -> None:
    """Returns once the other side has ended a connection."""
    with suppress(ConnectionError):
        while end.recv(1 << 16):
            pass


def hello() -> bytes:
    """Returns what a TLS client says first."""
    outgoing = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("said", [b"", hello()[:7], hello()], ids=["nothing", "half a word", "hello"])
def test_members_work_and_join_beside_200_connections_that_wait(federation: Federation, said: bytes) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(member(federation, "first"))
        for _ in range(200):
            stranger = stack.enter_context(connect(federation))
            with suppress(ConnectionError):  # it was turned away, or crowded out
                stranger.sendall(said)
        stack.enter_context(member(federation, "second"))
        replies, refusals = federation.ask(ping(number=7))

    assert sorted(reply.client for reply in replies) == ["first", "second"]
    assert not refusals
    assert first == ["connected", "stopped"]


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        bytes(64),
        b"\x16\x03\x01\xff\xff",
    ],
    ids=["http", "grpc without tls", "zeros", "a record too long"],
)
def test_who_does_not_speak_tls_is_cut_off_at_once(federation: Federation, said: bytes) -> None:
    with connect(federation) as stranger:
        stranger.sendall(said)
        wait_for_end(stranger)


def test_who_speaks_too_slowly_is_cut_off(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "HELLO_SECONDS", 0.5)
    with connect(federation) as stranger:
        stranger.sendall(hello()[:-1])
        wait_for_end(stranger)


def test_a_handshake_that_never_ends_is_cut_off(tmp_path: Path) -> None:
    limits = replace(LIMITS, connections=ConnectionLimits(proof_seconds=1.0))
    federation = Federation(tmp_path, limits)
    with connect(federation) as stranger:
        stranger.sendall(hello())
        wait_for_end(stranger)
    federation.superlink.stop()


def unsigned_channel(federation: Federation) -> grpc.Channel:
    tls = grpc.ssl_channel_credentials(federation.ca)
    # Channels with the same options would share a connection.
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.secure_channel(f"127.0.0.1:{federation.port}", tls, options=options)


def test_members_work_beside_strangers_who_call_all_the_time(
    federation: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    over = threading.Event()
    codes: set[grpc.StatusCode] = set()

    def flood() -> None:
        with unsigned_channel(federation) as channel:
            while not over.is_set():
                call = channel.unary_unary(PULL).future(b"", metadata=[("flwr-timestamp", "now")], timeout=10)
                codes.add(call.code())

    strangers = [threading.Thread(target=flood) for _ in range(8)]
    with member(federation, "first") as states:
        for each in strangers:
            each.start()
        answers = [federation.ask(ping(number=number))[0] for number in range(3)]
        over.set()
    for each in strangers:
        each.join()

    assert [replies[0].values["number"] for replies in answers] == [0, 1, 2]
    assert states == ["connected", "stopped"]
    # Refused calls, and connections that ended after a few of them.
    assert codes == {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE}
    assert len([each for each in caplog.records if each.name == "fedpipe.superlink"]) < 20
    assert all(vars(each)["peer"].startswith("127.0.0.1:") for each in caplog.records if "peer" in vars(each))


def endless(over: threading.Event) -> Iterator[bytes]:
    """The content of a call, which does not come."""
    over.wait()
    yield b""


def test_calls_of_strangers_without_an_end_hold_no_thread(federation: Federation) -> None:
    over = threading.Event()
    with ExitStack() as stack:
        stack.callback(over.set)
        calls = []
        for _ in range(10):
            channel = stack.enter_context(unsigned_channel(federation))
            calls += [channel.stream_unary(PULL).future(endless(over), timeout=60) for _ in range(60)]
        stack.enter_context(member(federation, "first"))
        replies, _ = federation.ask(ping())
        # Each was answered although its content never came.
        codes = {each.code() for each in calls}

    assert len(replies) == 1
    assert codes <= {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE}


def test_one_members_calls_without_an_end_leave_threads_to_others(tmp_path: Path) -> None:
    limits = replace(LIMITS, connections=ConnectionLimits(body_seconds=2.0))
    federation = Federation(tmp_path, limits)
    federation.register("first", "second")
    over = threading.Event()
    with ExitStack() as stack:
        stack.callback(federation.superlink.stop)
        stack.callback(over.set)
        channel = stack.enter_context(unsigned_channel(federation))
        calls = [
            channel.stream_unary(PULL).future(
                endless(over), metadata=signature(federation.keys["second"]), timeout=60
            )
            for _ in range(3 * MAX_CALLS_AT_ONCE)
        ]
        with member(federation, "first"):
            replies, _ = federation.ask(ping())
        codes = [each.code() for each in calls]

    assert [reply.client for reply in replies] == ["first"]
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 2 * MAX_CALLS_AT_ONCE
    # Those that were waited for ended with their connection.
    assert codes.count(grpc.StatusCode.UNAVAILABLE) == MAX_CALLS_AT_ONCE


def test_a_member_is_no_stranger_any_more(tmp_path: Path) -> None:
    limits = replace(LIMITS, connections=ConnectionLimits(proof_seconds=1.0, max_strangers_per_address=1))
    federation = Federation(tmp_path, limits)
    federation.register("first")
    with ExitStack() as stack:
        stack.callback(federation.superlink.stop)
        states = stack.enter_context(member(federation, "first"))
        with connect(federation) as stranger:
            wait_for_end(stranger)  # its time is over, and so would be the member's
        for _ in range(20):
            stack.enter_context(connect(federation))
        replies, _ = federation.ask(ping())

        assert len(replies) == 1
        assert states == ["connected"]


def test_an_unknown_method_is_refused_as_such(
    federation: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    codes = {
        call(federation, method, b"", key)
        for method in ("CreateNode", "Ping", "../../x\u007f")
        for key in (None, federation.keys["first"])
    }

    assert codes == {grpc.StatusCode.UNIMPLEMENTED}
    assert "x\u007f" not in caplog.text


def test_a_signature_by_another_key_tells_no_more_than_an_unknown_key(federation: Federation) -> None:
    told = set()
    for key, signer in ((federation.keys["first"], pki.make_key()), (pki.make_key(), pki.make_key())):
        with unsigned_channel(federation) as channel, pytest.raises(grpc.RpcError) as error:
            channel.unary_unary(PULL)(b"", metadata=signature(signer, shown=key), timeout=10)
        told.add((error.value.code(), error.value.details()))

    assert len(told) == 1
    assert told.pop()[0] == grpc.StatusCode.UNAUTHENTICATED


def test_addresses_of_members_are_in_the_log(
    federation: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    call(federation, "PushMessages", b"\xff\xff\xff", federation.keys["first"])

    refused = next(each for each in caplog.records if "PushMessages" in each.getMessage())
    assert vars(refused)["peer"].startswith("127.0.0.1:")
