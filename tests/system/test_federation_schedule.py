"""A federation that retrains by itself: real processes, a real minute of the calendar."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import yaml

from fedpipe.ledger import utc_now
from tests.system.federation import SETTINGS, Site

pytestmark = pytest.mark.slow

BEGUN, ENDED = "A scheduled run begins.", "The scheduled run ended."
THIS_YEAR = utc_now().year
OLDER, OLD, NEW = (str(THIS_YEAR - ago) for ago in (3, 2, 1))
DATED = """--set=schema.time={"column": "measured", "window": "year"}"""


def date_records(site: Site, name: str) -> None:
    """Gives an owner's records dates: her folder holds those of two years, another file those of the next."""
    path = site.folder / "data" / name / "records.csv"
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for rest, year in enumerate((OLDER, OLD, NEW)):
        place = path.with_name(f"{year}.csv") if year != NEW else site.folder / f"{year}.csv"
        with place.open("w", newline="") as stream:
            kept = csv.DictWriter(stream, [*rows[0], "measured"])
            kept.writeheader()
            kept.writerows(row | {"measured": f"{year}-06-15"} for row in rows[rest::3])
    path.unlink()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    try:
        made.init()
        date_records(made, "first")
        yield made
    finally:
        made.end()


def schedule(site: Site, *words: str) -> None:
    site.ok("federation", "schedule", "--dir=fed", "--config=breast_cancer", DATED, *SETTINGS, *words)


def exit_codes(site: Site) -> list[Any]:
    """Returns how the scheduled runs ended."""
    return [line["exit_code"] for line in site.log("fed") if line["message"] == ENDED]


def status(site: Site, name: str) -> Any:
    """Returns one line of what the operator is shown; the model is None while the last run is under way."""
    return json.loads(site.ok("federation", "status", "--dir=fed", "--json"))[name]


def test_a_schedule_outlives_runs_that_fail_and_a_daemon_that_is_killed(site: Site) -> None:
    schedule(site, "--cron=* * * * *", "--set=spans.last=2", f"--set=spans.until='{OLD}'")
    path = site.folder / "fed" / "schedule.yaml"
    kept = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(kept | {"since": (utc_now() - timedelta(minutes=2)).isoformat()}))

    # Nobody is a member yet: the first run fails.
    up = site.up()
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
    assert status(site, "schedule") == "* * * * *"
    site.wait_for(lambda: status(site, "model") == "breast_cancer:1", up)
    site.ok("federation", "schedule", "--dir=fed", "--off")
    site.wait_for(lambda: site.told("fed", BEGUN) - 1 == len(exit_codes(site)), up)
    runs = [json.loads(each.read_text()) for each in site.folder.glob("fed/workspace/runs/*/request.json")]
    assert sorted(run["number"] for run in runs) == list(range(1, len(runs) + 1))


def test_a_span_that_is_over_starts_a_run_which_finds_its_new_file(site: Site) -> None:
    up, before = site.processes[-1], len(exit_codes(site))
    (site.folder / f"{NEW}.csv").rename(site.folder / "data" / "first" / f"{NEW}.csv")
    assert NEW not in {row["span"] for row in site.budget("first")}
    schedule(site, "--new-spans=1", "--set=spans.last=2")

    site.wait_for(lambda: len(exit_codes(site)) > before, up)
    assert exit_codes(site)[before:] == [0], site.tails()
    assert status(site, "model") != "breast_cancer:1"
    spent = {row["span"] for row in site.budget("first") if row["num_releases"]}
    assert spent == {OLDER, OLD, NEW}
    assert up.poll() is None
