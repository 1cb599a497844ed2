"""A SuperLink and its nodes over TLS on loopback, in one process and without TensorFlow."""

from __future__ import annotations

import datetime as dt
import os
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpipe.federation import (
    Refusal,
    Reply,
    Request,
    flower_connection,
    flower_run,
    flower_servicers,
    pki,
)
from fedpipe.federation.flower_messages import reply_to_message
from fedpipe.federation.flower_superlink import MAX_CALL_BYTES, Limits, renewals
from tests.unit.federation.superlink import PATIENCE_SECONDS, Federation, call, echo, ping, wait_until

from flwr.app import Context, Message  # isort: skip

import grpc  # isort: skip


def test_members_answer_under_their_own_names(federation: Federation) -> None:
    federation.register("first", "second")
    with ExitStack() as nodes:
        states = [
            nodes.enter_context(
                federation.node(
                    federation.link(federation.keys[name]), decide=lambda _, name=name: {"client": name}
                )
            )
            for name in ("first", "second")
        ]
        wait_until(lambda: all("connected" in each for each in states))
        replies, refusals = federation.ask(ping(number=7))

    assert [(reply.client, reply.values["number"]) for reply in replies] == [("first", 7), ("second", 7)]
    assert not refusals


def test_a_node_that_speaks_for_another_is_not_heard(federation: Federation) -> None:
    federation.register("first", "second")
    link = federation.link(federation.keys["second"])
    with federation.node(link, decide=lambda _: {"client": "first"}) as states:
        wait_until(lambda: "connected" in states)
        replies, refusals = federation.ask(ping())

    assert not replies
    assert [(refusal.client, refusal.kind) for refusal in refusals] == [("second", "FederationError")]


def test_a_refused_request_does_not_reach_the_app(federation: Federation) -> None:
    federation.register("first")
    reached: list[Message] = []

    def app(message: Message, context: Context) -> Message:
        reached.append(message)
        return echo(message, context)

    refusal = Refusal(client="first", reason="not today", kind="LedgerError")
    link = federation.link(federation.keys["first"])
    with federation.node(link, app, decide=lambda _: refusal) as states:
        wait_until(lambda: "connected" in states)
        assert federation.ask(ping()) == ([], [refusal])

    assert not reached


def test_what_a_client_raises_is_not_told(federation: Federation) -> None:
    federation.register("first")

    def fail(message: Message, context: Context) -> Message:
        raise ValueError("record 17 of Mrs Miller")

    with federation.node(federation.link(federation.keys["first"]), fail) as states:
        wait_until(lambda: "connected" in states)
        _, refusals = federation.ask(ping())

    assert "Miller" not in str(refusals)
    assert [refusal.client for refusal in refusals] == ["first"]


def test_an_unknown_key_is_refused_until_it_is_admitted(federation: Federation) -> None:
    key = pki.make_key()
    with federation.node(federation.link(key)) as states:
        wait_until(lambda: any("does not know this key" in each for each in states))
        assert "connected" not in states

        federation.keys["first"] = key
        federation.register("first")
        wait_until(lambda: "connected" in states)


def test_a_removed_key_is_thrown_out(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower_connection, "HEARTBEAT_SECONDS", 10.0)
    federation.register("first")
    with federation.node(federation.link(federation.keys["first"])) as states:
        wait_until(lambda: "connected" in states)
        assert federation.superlink.register({}) == (0, 1)
        wait_until(lambda: any("does not know this key" in each for each in states))

    assert not flower_run.list_nodes(federation.control, federation.public)


def test_a_server_of_another_authority_is_not_trusted(federation: Federation) -> None:
    federation.register("first")
    other = pki.make_authority("demo", dt.datetime.now(dt.timezone.utc))
    link = federation.link(federation.keys["first"], pki.to_pem(other.certificate).encode())

    with federation.node(link) as states:
        wait_until(lambda: bool(states))
        assert states[0] in (
            "the server shows a certificate that this invitation does not trust, or that has expired",
            "the server cannot be reached",
        )
        assert "connected" not in states


def test_a_clock_that_is_off_by_an_hour_does_not_keep_a_node_away(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation.register("first")

    class Late(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:
            return dt.datetime.now(tz) + dt.timedelta(hours=1)

    class Clock:
        datetime, timedelta, timezone = Late, dt.timedelta, dt.timezone

    monkeypatch.setattr(flower_connection, "dt", Clock)
    with federation.node(federation.link(federation.keys["first"])) as states:
        wait_until(lambda: "connected" in states)
        replies, _ = federation.ask(ping())

    assert len(replies) == 1


def test_a_node_that_died_over_a_message_gets_it_again(federation: Federation) -> None:
    federation.register("first")
    link = federation.link(federation.keys["first"])
    doomed = flower_connection.Connection(link)
    doomed.activate()
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(federation.ask(ping(number=3))))
    asking.start()
    wait_until(lambda: doomed.receive(1 << 20, lambda: False) is not None)
    doomed._stopped.set()  # it says nothing any more, not even good-bye

    with federation.node(link):
        asking.join(PATIENCE_SECONDS)
    doomed.close()

    assert [reply.values["number"] for reply in answers[0][0]] == [3]


def test_a_superlink_that_was_away_is_found_again(federation: Federation) -> None:
    federation.register("first")
    with federation.node(federation.link(federation.keys["first"])) as states:
        wait_until(lambda: "connected" in states)
        federation.superlink.stop()
        wait_until(lambda: "the server cannot be reached" in states)
        federation.up()
        wait_until(lambda: states[-1] == "connected")
        replies, _ = federation.ask(ping())

    assert len(replies) == 1


def test_a_model_of_100_megabytes_goes_there_and_back(federation: Federation) -> None:
    federation.register("first")
    weights = np.arange(25 << 20, dtype=np.float32)
    request = Request(run_id="run", step="ping", arrays={"weights": weights})
    with federation.node(federation.link(federation.keys["first"])) as states:
        wait_until(lambda: "connected" in states)
        replies, refusals = federation.ask(request, timeout=120)

    assert not refusals
    np.testing.assert_array_equal(replies[0].arrays["weights"], weights)


def test_a_request_that_is_too_large_for_a_node_is_refused(federation: Federation) -> None:
    federation.register("first")
    request = Request(run_id="run", step="ping", arrays={"weights": np.zeros(1 << 20, dtype=np.float32)})
    link = federation.link(federation.keys["first"])
    with federation.node(link, max_message_bytes=1 << 20) as states:
        wait_until(lambda: "connected" in states)
        replies, refusals = federation.ask(request, timeout=3)

    assert not replies
    assert [refusal.client for refusal in refusals] == ["first"]


def many_parts() -> dict[str, Any]:
    return {f"part-{number}": np.array([number]) for number in range(20)}


def test_a_request_of_too_many_parts_for_a_node_is_refused(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(flower_connection, "MAX_OBJECTS", 20)
    federation.register("first")
    with federation.node(federation.link(federation.keys["first"])) as states:
        wait_until(lambda: "connected" in states)
        replies, _ = federation.ask(Request(run_id="run", step="ping", arrays=many_parts()), timeout=3)
        assert not replies
        replies, _ = federation.ask(ping())

    assert len(replies) == 1
    assert "Refused a message (FederationError)." in caplog.messages


def test_an_answer_of_too_many_parts_is_refused(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(flower_servicers, "MAX_OBJECTS", 20)
    federation.register("first")

    def boast(message: Message, context: Context) -> Message:
        return reply_to_message(Reply(client="first", arrays=many_parts()), message)

    with federation.node(federation.link(federation.keys["first"]), boast) as states:
        wait_until(lambda: "connected" in states)
        replies, _ = federation.ask(ping(), timeout=3)

    assert not replies
    assert "20 at most" in caplog.text


def test_an_answer_that_is_too_large_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flower_run, "PARTS_SECONDS", 1.0)
    federation = Federation(tmp_path, Limits(max_message_bytes=1 << 20, max_calls_per_second=1000))
    federation.register("first")

    def boast(message: Message, context: Context) -> Message:
        arrays = {"sum": np.zeros(1 << 20, dtype=np.float32)}
        return reply_to_message(Reply(client="first", arrays=arrays), message)

    with federation.node(federation.link(federation.keys["first"]), boast) as states:
        wait_until(lambda: "connected" in states)
        replies, _ = federation.ask(ping(), timeout=3)
    federation.superlink.stop()

    assert not replies
    assert "more than 1048576 bytes" in caplog.text


def test_calls_without_a_registered_key_are_refused(
    federation: Federation, caplog: pytest.LogCaptureFixture
) -> None:
    federation.register("first")
    refused = grpc.StatusCode.UNAUTHENTICATED

    assert call(federation, "PullMessages", b"", None) == refused
    assert call(federation, "PullMessages", b"\x0a\x02\x08\x05", pki.make_key()) != grpc.StatusCode.OK
    assert "not found among the members" in caplog.text


def test_an_old_signature_is_refused(federation: Federation) -> None:
    federation.register("first")
    old = (dt.datetime.now(dt.timezone.utc) - dt.timedelta(minutes=10)).isoformat()

    found = call(federation, "PullMessages", b"", federation.keys["first"], old)

    assert found == grpc.StatusCode.UNAUTHENTICATED


def test_nobody_registers_over_the_public_port(federation: Federation) -> None:
    federation.register("first")
    from flwr.proto.fleet_pb2 import RegisterNodeFleetRequest  # noqa: TID251
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes  # noqa: TID251

    member = federation.keys["first"]
    codes = []
    for caller, new in ((pki.make_key(), pki.make_key()), (member, pki.make_key()), (member, member)):
        body = RegisterNodeFleetRequest(public_key=public_key_to_bytes(new.public_key()))
        codes.append(call(federation, "RegisterNode", body.SerializeToString(), caller))

    refused = grpc.StatusCode.UNAUTHENTICATED
    assert codes == [refused, refused, grpc.StatusCode.FAILED_PRECONDITION]


def test_malformed_and_oversized_calls_are_refused_and_the_server_goes_on(federation: Federation) -> None:
    federation.register("first")
    key = federation.keys["first"]

    assert call(federation, "PushMessages", b"\xff\xff\xff", key) != grpc.StatusCode.OK
    assert call(federation, "PushMessages", b"", key) != grpc.StatusCode.OK
    oversized = call(federation, "PushObject", bytes(MAX_CALL_BYTES + 1), key)
    assert oversized == grpc.StatusCode.RESOURCE_EXHAUSTED
    with federation.node(federation.link(key)) as states:
        wait_until(lambda: "connected" in states)


def test_a_node_that_calls_too_often_is_slowed_down(tmp_path: Path) -> None:
    federation = Federation(tmp_path, Limits(max_message_bytes=1 << 20, max_calls_per_second=0.5))
    federation.register("first")
    codes = [call(federation, "PullMessages", b"", federation.keys["first"]) for _ in range(8)]
    federation.superlink.stop()

    assert codes[-1] == grpc.StatusCode.RESOURCE_EXHAUSTED


def received(connection: flower_connection.Connection) -> Message:
    """Returns the next message, once there is one."""
    while (message := connection.receive(1 << 20, lambda: False)) is None:
        pass
    return message


def test_an_answer_is_taken_once_while_its_run_goes_on(federation: Federation) -> None:
    federation.register("first", "second")
    first, second = (
        flower_connection.Connection(federation.link(federation.keys[name])) for name in ("first", "second")
    )
    for each in (first, second):
        each.activate()
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(federation.ask(ping())))
    asking.start()
    request = received(first)
    first.send(reply_to_message(Reply(client="first", values={"number": 1}), request), request, 0.0)

    with pytest.raises(grpc.RpcError) as error:
        first.send(reply_to_message(Reply(client="first", values={"number": 2}), request), request, 0.0)
    assert asking.is_alive()
    assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION

    request = received(second)
    second.send(reply_to_message(Reply(client="second"), request), request, 0.0)
    asking.join(PATIENCE_SECONDS)
    for each in (first, second):
        each.close()
    assert [(answer.client, answer.values.get("number")) for answer in answers[0][0]] == [
        ("first", 1),
        ("second", None),
    ]


def test_a_certificate_is_given_to_grpc_once_and_not_at_every_handshake() -> None:
    authority = pki.make_authority("demo", dt.datetime.now(dt.timezone.utc))

    def issue() -> tuple[bytes, bytes, bytes]:
        certificate, key = authority.issue(["127.0.0.1"], dt.datetime.now(dt.timezone.utc))
        return pki.to_pem(authority.certificate).encode(), certificate.encode(), key.encode()

    pair = issue()
    renewed = renewals(lambda: pair)
    assert renewed() is None
    pair = issue()
    assert isinstance(renewed(), grpc.ServerCertificateConfiguration)
    assert renewed() is None


def test_only_the_fleet_port_is_a_port(tmp_path: Path) -> None:
    before = _listening()
    made = Federation(tmp_path)
    try:
        assert _listening() - before == {("0100007F", made.port)}
    finally:
        made.superlink.stop()


def _listening() -> set[tuple[str, int]]:
    """Returns where this process listens: addresses as the kernel writes them, and ports."""
    inodes = {os.readlink(each) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                host, _, port = fields[1].rpartition(":")
                found.add((host, int(port, 16)))
    return found
