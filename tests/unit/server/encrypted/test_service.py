"""When a committee is replaced, and what its end does to the service."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedpipe.errors import EncryptedError
from server.encrypted.committee import Committee, CommitteeSettings
from server.encrypted.service import Active

MEBIBYTE = 1 << 20


def figures(coordinator: int, *parties: int | None) -> dict[str, Any]:
    memory = [None if each is None else each * MEBIBYTE for each in parties]
    return {"resident_bytes": {"coordinator": coordinator * MEBIBYTE, "parties": memory}}


@pytest.mark.parametrize(
    ("now", "worn"),
    [
        (figures(500, 400, 400, 400), False),
        (figures(510, 400, 400, 400), False),
        (figures(511, 400, 400, 400), True),
        (figures(500, 400, 400, 511), True),
        (figures(500, 400, None, 400), False),
        ({}, False),
    ],
)
def test_committee_is_worn_when_a_process_has_grown_by_more_than_it_may(
    now: dict[str, Any], worn: bool
) -> None:
    nothing: Any = SimpleNamespace()
    active = Active(committee=nothing, standing=nothing, card={}, canary_error=0.0, figures=now)
    assert not active.has_grown(10 * MEBIBYTE)  # not measured yet
    active.first_bytes = 500 * MEBIBYTE
    assert active.has_grown(10 * MEBIBYTE) == worn


def test_coordinator_that_dies_while_it_is_asked_is_a_failure_of_its_committee(tmp_path: Path) -> None:
    async def ask() -> Committee:
        settings = CommitteeSettings(python=tmp_path, log=tmp_path / "log")
        committee = Committee(settings=settings, doors=(), input_width=1, buckets=(1,))
        committee._asking = asyncio.Lock()

        async def drain() -> None:
            raise ConnectionResetError("Connection lost")

        committee._writer = SimpleNamespace(write=len, drain=drain)  # type: ignore[assignment]
        with pytest.raises(EncryptedError, match="found it gone"):
            await committee.status()
        return committee

    assert asyncio.run(ask()).failure.done()
