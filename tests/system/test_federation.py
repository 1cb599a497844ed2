"""From init to a registered model, with an operator and three nodes as processes of their own."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from fedpipe.signing import read_key
from tests.system.federation import NAMES, Site, free_port

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
def metrics_ports() -> dict[str, int]:
    """Where each daemon shows its figures."""
    return {home: free_port() for home in ("fed", *NAMES)}


@pytest.fixture(scope="module")
def outcome(site: Site, metrics_ports: dict[str, int]) -> dict[str, Any]:
    """What a first cycle over three connected nodes came to."""
    site.up(f"--metrics=127.0.0.1:{metrics_ports['fed']}")
    for name in NAMES:
        site.join(name, f"--metrics=127.0.0.1:{metrics_ports[name]}")
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
        assert 0 < train["share_spent"] < 1
        # Labels, health of columns and values of features, once each.
        assert train["num_releases"] == 3 + outcome["rounds"]


def test_no_record_key_or_update_reaches_the_operator(site: Site, outcome: dict[str, Any]) -> None:
    assert outcome
    keys = [(site.folder / name / "record.key").read_text().strip().encode() for name in NAMES]
    rows = [
        (site.folder / "data" / name / "records.csv").read_text().splitlines()[1].encode() for name in NAMES
    ]
    files = [path.read_bytes() for path in (site.folder / "fed").rglob("*") if path.is_file()]
    assert files
    assert not any(secret in content for content in files for secret in (*keys, *rows))


def test_only_the_fleet_port_and_figures_listen_and_all_on_loopback(
    site: Site, outcome: dict[str, Any], metrics_ports: dict[str, int]
) -> None:
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
    assert addresses == {("0100007F", port) for port in (site.port, *metrics_ports.values())}


def figures(port: int) -> dict[str, float]:
    """Returns what a daemon shows, by name and labels."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        lines = [line for line in response.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_the_operator_sees_how_the_run_went(
    site: Site, outcome: dict[str, Any], metrics_ports: dict[str, int]
) -> None:
    found = figures(metrics_ports["fed"])
    prefix = "fedpipe_federation"

    assert found[f"{prefix}_members"] == found[f"{prefix}_nodes_online"] == len(NAMES)
    assert found[f"{prefix}_run_round"] == outcome["rounds"]
    assert found[f"{prefix}_run_cohort_size"] == found[f"{prefix}_run_clients"] == len(NAMES)
    assert found[f"{prefix}_run_epsilon"] == pytest.approx(outcome["privacy"]["epsilon"])
    assert found[f'{prefix}_run_question_seconds_count{{step="train"}}'] == outcome["rounds"]
    assert found[f'{prefix}_run_refusals{{kind="absent"}}'] == 0
    claimed = [value for name, value in found.items() if name.startswith(f"{prefix}_claimed_epsilon")]
    assert claimed == [pytest.approx(outcome["privacy"]["epsilon"])] * len(NAMES)


def test_an_owner_sees_what_her_node_did_and_spent(
    site: Site, outcome: dict[str, Any], metrics_ports: dict[str, int]
) -> None:
    found = figures(metrics_ports["first"])

    assert found["fedpipe_node_connected"] == found["fedpipe_node_ledger_readable"] == 1
    assert found['fedpipe_node_requests_total{outcome="answered",step="train"}'] == outcome["rounds"]
    for row in site.budget("first"):
        name = f'fedpipe_node_block_used_ratio{{span="{row["span"]}",split="{row["split"]}"}}'
        assert found[name] == pytest.approx(row["share_spent"] + row["share_reserved"])


def test_certificate_is_signed_by_the_federation_and_by_the_ledgers_admitted(
    site: Site, outcome: dict[str, Any]
) -> None:
    keys = site.ok("federation", "nodes", "--keys", "--dir=fed").split()
    words = ("budget", "verify", outcome["paths"]["certificate"], "--key=fed/workspace/signing.pub")
    pinned = [f"--client-key={key}" for key in keys]

    assert (site.folder / "fed/workspace/signing.pub").read_text().strip() == read_key(
        site.folder / "fed/signing.pem"
    ).public
    assert not (site.folder / "fed/workspace/signing.key").exists()
    assert site.run(*words, *pinned).code == 0
    swapped = [f"{keys[0].partition('=')[0]}={keys[1].partition('=')[2]}", *keys[1:]]
    assert site.run(*words, *(f"--client-key={key}" for key in swapped)).code == 2


def test_logs_and_figures_hold_no_record_and_no_key(
    site: Site, outcome: dict[str, Any], metrics_ports: dict[str, int]
) -> None:
    assert outcome
    told = [path.read_text() for path in site.folder.rglob("*.log*") if path.is_file()]
    told += ["\n".join(figures(port)) for port in metrics_ports.values()]
    kept = [path for path in site.folder.rglob("*") if path.suffix in (".pem", ".key") and path.is_file()]
    secrets = {line for path in kept if path.name != "ca.pem" for line in path.read_text().splitlines()}
    secrets -= {line for line in secrets if line.startswith("-----")}
    secrets -= set((site.folder / "fed/server.pem").read_text().partition("PRIVATE KEY")[0].splitlines())
    for name in NAMES:
        for row in (site.folder / "data" / name / "records.csv").read_text().splitlines()[1:]:
            cells = row.split(",")
            secrets |= {",".join(cells[:2]), ", ".join(cells[:2])}

    assert len(told) > 2 * len(NAMES)
    assert secrets
    assert not [secret for secret in secrets if any(secret in text for text in told)]
    # An array would make a long line.
    assert max(len(line) for text in told for line in text.splitlines()) < 5000


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
