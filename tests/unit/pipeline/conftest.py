"""A workspace, a metadata store and a clock that the tests of this directory share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from fedpipe.pipeline import MetadataStore, Workspace

START = datetime(2024, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


def _ticks() -> Iterator[datetime]:
    moment = START
    while True:
        yield moment
        moment += timedelta(seconds=1)


@pytest.fixture
def clock() -> Callable[[], datetime]:
    """A clock that is one second later whenever it is read."""
    ticks = _ticks()
    return lambda: next(ticks)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def metadata(workspace: Workspace) -> MetadataStore:
    store = MetadataStore.open(workspace.metadata_path)
    store.create_run("run-1", pipeline="lifecycle", config_digest="c0ffee", created_at=START)
    return store
