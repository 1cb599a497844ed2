"""A federation on disk."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from server.federation.home import FederationFile, FederationHome

NOW = dt.datetime(2026, 5, 4, 12, tzinfo=dt.timezone.utc)


@pytest.fixture
def now() -> dt.datetime:
    """When everything happens."""
    return NOW


@pytest.fixture
def home(tmp_path: Path, now: dt.datetime) -> FederationHome:
    """A new federation."""
    settings = FederationFile.model_validate({"name": "demo", "address": "fed.example.org:9092"})
    return FederationHome.create(tmp_path / "federation", settings, now)
