"""Real processes that are killed, stopped and brought back while a federation trains."""

from __future__ import annotations

import datetime as dt
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedpipe.federation import pki
from tests.system.federation import NAMES, Site

pytestmark = pytest.mark.slow

NUM_ROUNDS = 25
# Labels, health of columns and values of features, once each.
OTHER_RELEASES = 3


class Fault:
    """A cycle under way, which is disturbed once it trains."""

    def __init__(self, site: Site, nodes: dict[str, subprocess.Popen[bytes]], *more: str) -> None:
        self.site, self.nodes = site, nodes
        self.words = ("--fresh", f"--set=training.num_rounds={NUM_ROUNDS}", *more)
        self.before = {name: len(site.steps(name)) for name in NAMES}
        self.spent = {name: releases(site, name) for name in NAMES}
        self.run = site.start(*site.cycle_words(*self.words))

    def wait_for_round(self, name: str, server_round: int) -> None:
        """Waits until `name` has worked on a round of this cycle."""
        self.site.wait_for(
            lambda: ("train", server_round) in self.site.steps(name)[self.before[name] :], self.run
        )

    def finish(self) -> int:
        """Returns the exit code of the cycle."""
        return self.run.wait(240)

    def new_releases(self, name: str) -> int:
        """Returns for how many answers the owner was charged since."""
        return releases(self.site, name) - self.spent[name]


def releases(site: Site, name: str) -> int:
    return sum(row["num_releases"] for row in site.budget(name) if row["split"] == "train")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    try:
        made.set_up()
        for name in NAMES:
            (made.folder / name / "policy.yaml").write_text("block_epsilon: 200\n")
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def daemons(site: Site) -> dict[str, subprocess.Popen[bytes]]:
    """The operator's process and those of the nodes, by name; tests replace those that they kill."""
    return {"up": site.up()} | {name: site.join(name) for name in NAMES}


Daemons = dict[str, Any]


def test_a_killed_node_returns_with_its_key_and_the_round_goes_on(site: Site, daemons: Daemons) -> None:
    fault = Fault(site, daemons)
    fault.wait_for_round("second", 2)
    daemons["second"].kill()
    daemons["second"].wait()
    daemons["second"] = site.join("second")

    assert fault.finish() == 0, site.tails()
    assert [fault.new_releases(name) for name in NAMES] == [NUM_ROUNDS + OTHER_RELEASES] * len(NAMES)


def test_a_killed_server_returns_and_nodes_and_run_find_it_again(site: Site, daemons: Daemons) -> None:
    fault = Fault(site, daemons)
    fault.wait_for_round("first", 2)
    daemons["up"].kill()
    daemons["up"].wait()
    daemons["up"] = site.up()

    assert fault.finish() == 0, site.tails()
    assert [fault.new_releases(name) for name in NAMES] == [NUM_ROUNDS + OTHER_RELEASES] * len(NAMES)


def test_a_killed_coordinator_goes_on_where_it_was_and_nothing_is_charged_twice(
    site: Site, daemons: Daemons
) -> None:
    assert daemons
    fault = Fault(site, daemons)
    fault.wait_for_round("first", 5)
    fault.run.kill()
    fault.run.wait()

    resumed = site.cycle(*(word for word in fault.words if word != "--fresh")).json

    assert resumed["resumed"]
    assert [fault.new_releases(name) for name in NAMES] == [NUM_ROUNDS + OTHER_RELEASES] * len(NAMES)


def test_a_node_that_hangs_is_left_out_where_the_run_may_go_on(site: Site, daemons: Daemons) -> None:
    fault = Fault(
        site,
        daemons,
        "--set=training.on_missing=continue",
        "--set=training.min_cohort=2",
        "--set=training.round_timeout_seconds=20",
    )
    fault.wait_for_round("third", 2)
    os.kill(daemons["third"].pid, signal.SIGSTOP)
    try:
        code = fault.finish()
    finally:
        os.kill(daemons["third"].pid, signal.SIGCONT)

    assert code == 0, site.tails()
    assert fault.new_releases("first") == NUM_ROUNDS + OTHER_RELEASES
    assert fault.new_releases("third") < NUM_ROUNDS + OTHER_RELEASES


def test_too_few_nodes_stop_the_run_in_time_and_it_goes_on_once_they_are_back(
    site: Site, daemons: Daemons
) -> None:
    fault = Fault(site, daemons, "--set=training.min_cohort=3", "--set=training.round_timeout_seconds=60")
    fault.wait_for_round("third", 2)
    daemons["third"].kill()
    daemons["third"].wait()
    assert fault.finish() == 2
    assert "once enough are back" in site.tails()

    daemons["third"] = site.join("third")
    resumed = site.cycle(*(word for word in fault.words if word != "--fresh")).json
    assert resumed["num_clients"] == len(NAMES)
    assert [fault.new_releases(name) for name in NAMES] == [NUM_ROUNDS + OTHER_RELEASES] * len(NAMES)


def limit_files(process: subprocess.Popen[bytes], num_bytes: int) -> None:
    """Makes every write beyond so many bytes of a file fail: the disk of that process is full."""
    hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (num_bytes, hard))


def test_a_node_with_a_full_disk_answers_nothing_that_it_cannot_charge(site: Site, daemons: Daemons) -> None:
    fault = Fault(site, daemons, "--set=training.on_missing=continue", "--set=training.min_cohort=2")
    fault.wait_for_round("second", 2)
    limit_files(daemons["second"], 0)
    try:
        code = fault.finish()
    finally:
        limit_files(daemons["second"], resource.RLIM_INFINITY)

    assert code == 0, site.tails()
    assert fault.new_releases("first") == NUM_ROUNDS + OTHER_RELEASES
    assert 0 < fault.new_releases("second") < NUM_ROUNDS + OTHER_RELEASES
    assert daemons["second"].poll() is None
    assert site.ok("budget", "check", "--ledger=second/ledger.sqlite")

    assert site.cycle("--fresh").json["num_clients"] == len(NAMES)


def test_an_expired_certificate_is_refused_and_renewed(site: Site, daemons: Daemons) -> None:
    home = site.folder / "fed"
    authority = pki.read_authority(home / "ca.pem", home / "ca-key.pem")
    long_ago = dt.datetime.now(dt.timezone.utc) - dt.timedelta(days=pki.SERVER_DAYS + 1)
    certificate, key = authority.issue(("127.0.0.1", "localhost"), long_ago)
    (home / "server.pem").write_text(certificate + key)
    daemons["second"].terminate()
    assert daemons["second"].wait(60) == 0
    daemons["second"] = site.start("client", "join", "--home=second", "--data=data/second")
    site.wait_for(lambda: "expired" in site.state("second")[1], daemons["second"])

    daemons["up"].terminate()
    assert daemons["up"].wait(60) == 0
    daemons["up"] = site.up()
    site.wait_for(lambda: site.state("second")[1] == "connected", daemons["second"])


def test_a_removed_node_is_left_out_and_cannot_return(site: Site, daemons: Daemons) -> None:
    site.ok("federation", "remove", "third", "--dir=fed")

    site.wait_for(lambda: "does not know this key" in site.state("third")[1], daemons["third"])
    assert site.cycle("--fresh").json["num_clients"] == len(NAMES) - 1


def test_a_paused_node_is_away_until_it_resumes(site: Site, daemons: Daemons) -> None:
    site.ok("client", "pause", "--home=second")
    site.wait_for(lambda: site.state("second")[1] == "paused", daemons["second"])

    site.ok("client", "resume", "--home=second")
    site.wait_for(lambda: site.state("second")[1] == "connected", daemons["second"])


def test_no_process_is_left_behind(site: Site, daemons: Daemons) -> None:
    for process in daemons.values():
        process.send_signal(signal.SIGTERM)
    assert [process.wait(60) for process in daemons.values()] == [0] * len(daemons)

    of_site = str(site.folder)
    left = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                where = os.readlink(entry / "cwd")
            except OSError:
                continue
            left += [entry.name] if where.startswith(of_site) else []
    assert not left
