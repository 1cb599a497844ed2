"""That output shares differ from call to call is due to fresh keys, and nothing else."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import numpy as np
import pytest

from fedpipe.encrypted import party, provisioning
from fedpipe.encrypted.dense import Builder, DensePart
from fedpipe.encrypted.party import tickets
from fedpipe.encrypted.shares import encode_fixed, share
from server.encrypted import enclave
from server.encrypted.committee import Committee, CommitteeSettings, PartyDoor
from server.encrypted.doors import listen
from server.encrypted.owner import Parties
from tests.system.encrypted_service import send

pytestmark = pytest.mark.slow

FRESH_KEYS = "        prot.reset()\n"


def small_part() -> DensePart:
    builder = Builder()
    hidden = builder.add("relu", builder.add("dense", 0, weights=[np.eye(2), np.ones((1, 2))]))
    builder.add("dense", hidden, weights=[np.ones((2, 1)), np.zeros((1, 1))])
    return builder.build(2)


async def answers_to_the_same_shares(folder: Path) -> list[list[tuple[int, bytes]]]:
    """Returns what the parties of a new committee answer to the same shares, brought twice."""
    part, doors = small_part(), []
    for _ in range(3):
        listener = listen("127.0.0.1", 0)
        url = "http://{}:{}".format(*listener.getsockname())
        doors.append(PartyDoor(listener=listener, url=url))
    python = provisioning.find_environment(provisioning.default_home())
    settings = CommitteeSettings(python=python, log=folder / "log")
    committee = Committee(settings=settings, doors=doors, input_width=2, buckets=(1,))
    try:
        await committee.start()
        owner = Parties(committee.urls, None)
        for number, weight in enumerate(part.weights):
            ticket = committee.ticket(tickets.WEIGHTS, number, 60)
            await asyncio.to_thread(owner.send, ticket, weight, 2.0**20)
        await committee.load(part.layers, len(part.weights))
        pairs = share(encode_fixed([[1.5, -0.5]], max_magnitude=2.0))
        addresses = [{"url": url} for url in committee.urls]
        calls = [{"request_id": committee.ticket(tickets.ROWS, 1, 60), "parties": addresses} for _ in "ab"]
        return [await asyncio.to_thread(send, call, pairs) for call in calls]
    finally:
        await committee.close()


def test_graph_that_uses_its_masks_again_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without fresh keys all output shares repeat, which `test_same_row_twice...` would find."""
    provisioning.install(provisioning.default_home(), print)
    shutil.copytree(Path(party.__file__).parent, tmp_path / "party")
    network = tmp_path / "party" / "network.py"
    source = network.read_text()
    assert source.count(FRESH_KEYS) == 1
    network.write_text(source.replace(FRESH_KEYS, ""))
    spoiled = {**provisioning.environment(), "PYTHONPATH": str(tmp_path)}
    monkeypatch.setattr(enclave, "environment", lambda: spoiled)
    first, second = asyncio.run(answers_to_the_same_shares(tmp_path))
    assert [status for status, _ in first + second] == [200] * 6
    assert first == second
