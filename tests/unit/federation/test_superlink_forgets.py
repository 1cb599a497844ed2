"""What a SuperLink keeps after its runs: nothing that grows with their number."""

from __future__ import annotations

import datetime as dt
import gc
import io
import os
import queue
import sqlite3
import threading
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpipe.errors import FederationError
from fedpipe.federation import Request, flower_connection, flower_run, flower_state
from fedpipe.federation.flower_messages import request_to_message
from fedpipe.files import sha256
from tests.unit.federation.superlink import PATIENCE_SECONDS, Federation, echo, ping, wait_until

from flwr.app import Context, Message  # isort: skip
from flwr.proto.message_pb2 import ObjectTree  # isort: skip  # noqa: TID251
from flwr.serverapp import Grid, ServerApp  # isort: skip

LATER = dt.timedelta(hours=2)


def forget(federation: Federation, after: dt.timedelta) -> None:
    federation.superlink.forget_old(dt.datetime.now(dt.timezone.utc) + after)


def rows(federation: Federation) -> dict[str, int]:
    """Returns how many rows each table has that has any."""
    with closing(sqlite3.connect(federation.root / "state.sqlite")) as state:
        names = [name for (name,) in state.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        counts = {name: state.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0] for name in names}
    return {name: count for name, count in counts.items() if count}


class Question:
    """A run that asks one node, and goes on until it is told to end."""

    def __init__(self, federation: Federation, ttl: float) -> None:
        self._over, self.asked = threading.Event(), threading.Event()
        app = ServerApp()

        @app.main()  # type: ignore[misc]
        def main(grid: Grid, context: Context) -> None:
            [node] = grid.get_node_ids()
            grid.push_messages([request_to_message(ping(), node, ttl)])
            self.asked.set()
            self._over.wait(PATIENCE_SECONDS)

        self._thread = threading.Thread(
            target=lambda: flower_run.run_on_superlink(
                app, control=federation.control, serverappio=federation.serverappio, run_config={}
            )
        )

    def __enter__(self) -> Question:
        self._thread.start()
        assert self.asked.wait(PATIENCE_SECONDS)
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over.set()
        self._thread.join(PATIENCE_SECONDS)


def connected(federation: Federation) -> flower_connection.Connection:
    federation.register("first")
    connection = flower_connection.Connection(federation.link(federation.keys["first"]))
    connection.activate()
    return connection


def miss_heartbeats(federation: Federation) -> None:
    """Makes every run look as if its process had been killed a while ago."""
    with closing(sqlite3.connect(federation.root / "state.sqlite")) as state, state:
        state.execute("UPDATE run SET active_until = 1")


def test_nothing_is_left_of_runs_that_have_ended(federation: Federation) -> None:
    federation.register("first")
    with federation.node(federation.link(federation.keys["first"])) as states:
        wait_until(lambda: "connected" in states)
        assert len(federation.ask(ping())[0]) == 1
        assert len(federation.ask(ping())[0]) == 1
    assert rows(federation)["run"] == 2

    forget(federation, LATER)

    assert set(rows(federation)) == {"node"}


def test_the_disk_that_a_large_model_took_is_given_back(federation: Federation) -> None:
    def num_bytes() -> int:
        return sum(path.stat().st_size for path in federation.root.glob("state.sqlite*"))

    federation.register("first")
    weights = np.arange(6 << 20, dtype=np.float32)  # equal parts would be kept once
    with federation.node(federation.link(federation.keys["first"])) as states:
        wait_until(lambda: "connected" in states)
        federation.ask(Request(run_id="run", step="ping", arrays={"weights": weights}))
        assert num_bytes() > 20 << 20

        forget(federation, dt.timedelta())
        assert num_bytes() < 1 << 20
        assert len(federation.ask(ping())[0]) == 1


def test_a_state_that_is_locked_is_tidied_another_time(federation: Federation) -> None:
    with closing(sqlite3.connect(federation.root / "state.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(FederationError, match="locked"):
            forget(federation, LATER)
        other.execute("ROLLBACK")

    forget(federation, LATER)


def test_all_runs_share_one_bundle() -> None:
    [entry] = zipfile.ZipFile(io.BytesIO(flower_run._bundle())).infolist()

    assert entry.date_time == (1980, 1, 1, 0, 0, 0)


def test_a_question_of_a_killed_run_is_forgotten_with_its_parts(federation: Federation) -> None:
    connection = connected(federation)
    with Question(federation, ttl=600.0):
        miss_heartbeats(federation)
        forget(federation, LATER)
        assert set(rows(federation)) == {"node"}
    connection.close()


def test_a_question_whose_time_is_over_is_forgotten_while_its_run_goes_on(federation: Federation) -> None:
    connection = connected(federation)
    with Question(federation, ttl=30.0):
        forget(federation, dt.timedelta())
        assert rows(federation)["message_ins"] == 1
        forget(federation, dt.timedelta(minutes=5))
        left = rows(federation)
    connection.close()

    assert left["run"] == 1
    assert not {"message_ins", "objects", "object_children", "run_objects"} & set(left)


def test_a_node_passes_over_the_question_of_a_killed_run(federation: Federation) -> None:
    connection = connected(federation)
    with Question(federation, ttl=600.0):
        miss_heartbeats(federation)
        connection.close()
        with federation.node(federation.link(federation.keys["first"])) as states:
            wait_until(lambda: "connected" in states)
            replies, _ = federation.ask(ping(number=1))

    assert [reply.values["number"] for reply in replies] == [1]
    assert states == ["connected", "stopped"]


def test_an_answer_to_a_run_that_has_ended_costs_no_connection(federation: Federation) -> None:
    federation.register("first")
    working, may_answer = threading.Event(), threading.Event()

    def slow(message: Message, context: Context) -> Any:
        working.set()
        may_answer.wait(PATIENCE_SECONDS)
        return echo(message, context)

    with federation.node(federation.link(federation.keys["first"]), slow) as states:
        wait_until(lambda: "connected" in states)
        with Question(federation, ttl=600.0):
            assert working.wait(PATIENCE_SECONDS)
        may_answer.set()
        replies, _ = federation.ask(ping(number=2))

    assert [reply.values["number"] for reply in replies] == [2]
    assert states == ["connected", "stopped"]


def open_files(federation: Federation) -> int:
    """Returns how often this process has the state's file open."""
    links = [os.readlink(each) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    return links.count(str(federation.root / "state.sqlite"))


def test_connections_to_the_state_do_not_grow_with_calls(federation: Federation) -> None:
    federation.register("first")
    gc.disable()  # what only it would close is a leak
    try:
        with federation.node(federation.link(federation.keys["first"])) as states:
            wait_until(lambda: "connected" in states)
            federation.ask(ping())
            before = open_files(federation)
            for number in range(10):
                federation.ask(ping(number=number))
                federation.superlink.num_online()
            after = open_files(federation)
    finally:
        gc.enable()

    assert after - before < 40  # a thread of the servers may be new; ten runs are hundreds of calls


def test_parts_that_messages_share_survive_one_that_is_deleted_meanwhile(tmp_path: Path) -> None:
    state = flower_state.StateFile(tmp_path / "state.sqlite")
    part = ObjectTree(object_id=sha256(b"part"))
    roots = [sha256(f"{number}".encode()) for number in range(200)]
    registered: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def delete() -> None:
        while (root := registered.get()) is not None:
            state.store().delete(root)

    deleting = threading.Thread(target=delete)
    deleting.start()
    try:
        for root in roots:
            state.store().preregister(1, ObjectTree(object_id=root, children=[part]))
            registered.put(root)
    finally:
        registered.put(None)
        deleting.join(PATIENCE_SECONDS)

    assert len(state.store()) == 0
