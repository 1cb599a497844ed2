"""From init to a registered model, with an operator and three nodes as processes of their own."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.system.federation import NAMES, Site

pytestmark = pytest.mark.slow


def listening() -> dict[str, str]:
    """Returns, by socket inode, the local address of every listening TCP socket of this machine."""
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                found[f"socket:[{fields[9]}]"] = fields[1]
    return found


def sockets_of(pid: int) -> set[str]:
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            found.add(os.readlink(link))
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    try:
        made.set_up()
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def outcome(site: Site) -> dict[str, Any]:
    """What a first cycle over three connected nodes came to."""
    site.up()
    for name in NAMES:
        site.join(name)
    return site.cycle().json


def test_three_nodes_train_a_model_together(outcome: dict[str, Any]) -> None:
    assert outcome["model_version"] == "breast_cancer:1"
    assert outcome["num_clients"] == len(NAMES)
    assert outcome["privacy"]["status"] == "private"
    assert Path(outcome["paths"]["report"]).is_file()
    assert Path(outcome["paths"]["certificate"]).is_file()


def test_figures_that_only_a_simulation_knows_are_absent(outcome: dict[str, Any]) -> None:
    assert outcome["simulation_only"] is None
    assert "known in simulation only" not in Path(outcome["paths"]["report"]).read_text()


def test_every_owner_was_charged_in_her_own_ledger(site: Site, outcome: dict[str, Any]) -> None:
    for name in NAMES:
        train = next(row for row in site.budget(name) if row["split"] == "train")
        assert 0 < train["used"] < 1
        # Labels, health of columns and values of features, once each.
        assert train["releases"] == 3 + outcome["rounds"]


def test_no_record_key_or_update_reaches_the_operator(site: Site, outcome: dict[str, Any]) -> None:
    assert outcome
    keys = [(site.folder / name / "record.key").read_text().strip().encode() for name in NAMES]
    rows = [
        (site.folder / "data" / name / "records.csv").read_text().splitlines()[1].encode() for name in NAMES
    ]
    files = [path.read_bytes() for path in (site.folder / "fed").rglob("*") if path.is_file()]
    assert files
    assert not any(secret in content for content in files for secret in (*keys, *rows))


def test_nothing_but_the_fleet_port_listens_and_that_on_loopback(site: Site, outcome: dict[str, Any]) -> None:
    assert outcome
    known = listening()
    found = {
        known[inode]
        for process in site.processes
        if process.poll() is None
        for inode in sockets_of(process.pid)
        if inode in known
    }

    addresses = {(each.rpartition(":")[0][-8:], int(each.rpartition(":")[2], 16)) for each in found}
    assert addresses == {("0100007F", site.port)}


def test_nothing_that_was_made_is_readable_by_others(site: Site, outcome: dict[str, Any]) -> None:
    assert outcome
    for home in ("fed", *NAMES):
        root = site.folder / home
        assert root.stat().st_mode & 0o077 == 0
        open_to_others = [
            path.name for path in root.iterdir() if path.lstat().st_mode & 0o077 and not path.is_symlink()
        ]
        assert not open_to_others


def test_the_same_command_again_is_answered_from_results_at_no_cost(
    site: Site, outcome: dict[str, Any]
) -> None:
    before = site.budget("first")

    again = site.cycle().json

    assert outcome["run_id"] in again["reused"].values()
    assert site.budget("first") == before


def test_operator_sees_who_is_connected(site: Site, outcome: dict[str, Any]) -> None:
    assert outcome
    rows = json.loads(site.ok("federation", "nodes", "--dir=fed", "--json"))

    assert {row["client"]: row["state"] for row in rows} == dict.fromkeys(NAMES, "connected")
    status = json.loads(site.ok("federation", "status", "--dir=fed", "--json"))
    assert (status["state"], status["connected"], status["model"]) == ("up", 3, "breast_cancer:1")


def test_a_request_over_budget_changes_nothing_and_exits_3(site: Site, outcome: dict[str, Any]) -> None:
    assert outcome
    before = site.budget("first")

    done = site.cycle("--set=privacy.epsilon=50")

    assert done.code == 3
    assert "Traceback" not in done.err
    assert site.budget("first") == before


def test_settings_for_simulations_are_refused(site: Site, outcome: dict[str, Any]) -> None:
    assert outcome
    done = site.cycle("--set=privacy.enabled=false")

    assert done.code == 2
    assert "no owner's node accepts them" in done.err


def test_sigterm_ends_everything_cleanly(site: Site, outcome: dict[str, Any]) -> None:
    assert outcome
    for process in site.processes:
        process.send_signal(signal.SIGTERM)

    assert [process.wait(60) for process in site.processes] == [0] * len(site.processes)
    assert site.told("fed", "Down.")
    assert not [path.name for path in (site.folder / "fed").glob("*.pid")]
