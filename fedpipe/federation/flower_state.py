"""What a SuperLink keeps in SQLite: over which connections, and when it forgets.

Flower opens two connections for each call and leaves them to the garbage collector, which since CPython
3.11 finds them late, as a connection and its cache of statements refer to each other: a busy server
runs out of files. It also keeps messages without an answer, their parts, and runs, for ever.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedpipe.federation import flower_compat
from fedpipe.memory import give_back

with flower_compat.hidden("tensorflow", "ray"):
    from flwr.common.constant import Status
    from flwr.server.superlink.linkstate import LinkStateFactory, SqliteLinkState
    from flwr.supercore.object_store import ObjectStoreFactory
    from flwr.supercore.object_store.sqlite_object_store import SqliteObjectStore
    from flwr.supercore.utils import uint64_to_int64

# Until then, a late call learns that its run has ended, not that there never was one.
KEPT = dt.timedelta(hours=1)
EXPIRED_SECONDS = 60.0
KEPT_BYTES = 16 << 20
OF_RUNS = ("message_res", "message_ins", "context", "token_store", "logs")


_trees = threading.RLock()


class ObjectStore(SqliteObjectStore):
    """Flower's, but nobody deletes what a tree shares while that is being registered.

    Messages of one content share their parts: a question that is asked again, and the one before it.
    """

    def preregister(self, run_id: int, object_tree: Any) -> list[str]:
        """Registers the parts of a message; returns those that are wanted."""
        with _trees:
            wanted: list[str] = super().preregister(run_id, object_tree)
            return wanted

    def delete(self, object_id: str) -> None:
        """Deletes a message and those of its parts that no other has."""
        with _trees:
            super().delete(object_id)

    def delete_objects_in_run(self, run_id: int) -> None:
        """Deletes all that belongs to a run alone."""
        with _trees:
            super().delete_objects_in_run(run_id)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """Flower's two views of the same file, over one connection."""

    state: Any
    store: Any


class StateFile(LinkStateFactory, ObjectStoreFactory):
    """Both of Flower's factories in one: gives each thread of a server one connection, and keeps it."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._own = threading.local()
        objects = SqliteObjectStore(self._path)
        objects.initialize()  # it makes its tables, and the first connection those of the other
        objects.conn.close()
        # Stays open: the last connection to close takes SQLite's log with it.
        self._first = _open(self._path)

    def state(self) -> Any:
        """Returns Flower's LinkState, for the calling thread alone."""
        return self._opened().state

    def store(self) -> Any:
        """Returns Flower's ObjectStore, for the calling thread alone."""
        return self._opened().store

    def _opened(self) -> Opened:
        if not hasattr(self._own, "opened"):
            self._own.opened = _open(self._path)
        opened: Opened = self._own.opened
        return opened

    @contextmanager
    def opened(self) -> Iterator[Opened]:
        """Opens a connection for the block: for threads that come and go."""
        opened = _open(self._path)
        try:
            yield opened
        finally:
            opened.state.conn.close()

    def close(self) -> None:
        """Closes the connection of the thread that made this; servers that have stopped need no other."""
        self._first.state.conn.close()


def _open(path: str) -> Opened:
    state, store = SqliteLinkState(path), ObjectStore(path)
    state.initialize()
    store._conn = state.conn
    return Opened(state=state, store=store)


def forget_old(opened: Opened, now: dt.datetime) -> None:
    """Deletes what belongs to ended runs, and requests that can be answered no more.

    A run whose process was killed has ended once its heartbeats have been missing for a minute.
    """
    state, store = opened.state, opened.store
    runs = {run: found.status for run, found in state.get_run_status(state.get_run_ids(None)).items()}
    for run in [run for run, status in runs.items() if status == Status.FINISHED]:
        store.delete_objects_in_run(run)
        for table in OF_RUNS:
            state.query(f"DELETE FROM {table} WHERE run_id = ?", (uint64_to_int64(run),))  # noqa: S608
    state.query("DELETE FROM run WHERE finished_at != '' AND finished_at < ?", ((now - KEPT).isoformat(),))
    _forget_expired(opened, now.timestamp() - EXPIRED_SECONDS)
    if set(runs.values()) <= {Status.FINISHED, Status.PENDING}:
        _give_back(state)


def _forget_expired(opened: Opened, before: float) -> None:
    """Deletes requests whose time was over `before`, with answers that nobody fetched, and their parts."""
    expired = "SELECT message_id FROM message_ins WHERE created_at + ttl < ?"
    answers = f"SELECT message_id FROM message_res WHERE reply_to_message_id IN ({expired})"  # noqa: S608
    requests = {row["message_id"] for row in opened.state.query(expired, (before,))}
    replies = {row["message_id"] for row in opened.state.query(answers, (before,))}
    opened.state.delete_messages(requests)
    for identity in requests | replies:
        opened.store.delete(identity)


def _give_back(state: Any) -> None:
    """Returns what large models took in the file, in its log and in memory: a server may idle for weeks."""
    connection = state.conn
    free, size = (state.query(f"PRAGMA {name}")[0][name] for name in ("freelist_count", "page_size"))
    if free * size > KEPT_BYTES:
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        give_back()
