"""A federation that retrains by itself: real processes, a real minute of the calendar."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedpipe.ledger import utc_now
from tests.system.federation import SETTINGS, Site

pytestmark = pytest.mark.slow

BEGUN, ENDED = "A scheduled run begins.", "The scheduled run ended."


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    try:
        made.init()
        yield made
    finally:
        made.end()


def exit_codes(site: Site) -> list[Any]:
    """Returns how the scheduled runs ended."""
    return [line["exit_code"] for line in site.log("fed") if line["message"] == ENDED]


def test_a_schedule_outlives_runs_that_fail_and_a_daemon_that_is_killed(site: Site) -> None:
    up = site.up()
    site.ok("federation", "schedule", "--dir=fed", "--config=breast_cancer", "--cron=* * * * *", *SETTINGS)
    path = site.folder / "fed" / "schedule.yaml"
    schedule = yaml.safe_load(path.read_text())
    schedule["since"] = (utc_now() - timedelta(minutes=2)).isoformat()
    path.write_text(yaml.safe_dump(schedule))

    # Nobody is a member yet: the first run fails.
    site.wait_for(lambda: bool(exit_codes(site)), up)
    assert set(exit_codes(site)) == {2}
    site.enrol("first")
    site.join("first")
    site.wait_for(lambda: ("statistics", 0) in site.steps("first"), up)
    assert site.told("fed", BEGUN) == len(exit_codes(site)) + 1

    up.kill()
    up.wait()
    up = site.up()

    # The run goes on without the daemon that began it; no other begins beside it.
    site.wait_for(lambda: "breast_cancer:1" in site.ok("federation", "status", "--dir=fed", "--json"), up)
    site.ok("federation", "schedule", "--dir=fed", "--off")
    site.wait_for(lambda: site.told("fed", BEGUN) - 1 == len(exit_codes(site)), up)
    runs = [json.loads(each.read_text()) for each in site.folder.glob("fed/workspace/runs/*/request.json")]
    assert sorted(run["number"] for run in runs) == list(range(1, len(runs) + 1))
    assert up.poll() is None
