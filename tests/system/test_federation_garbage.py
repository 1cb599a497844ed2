"""A member whose node answers garbage: it is left out and named, and the run goes on."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system import garbage
from tests.system.conftest import Done
from tests.system.federation import NAMES, Site

pytestmark = pytest.mark.slow

# A wrong answer of each kind, to each question that can do harm.
SPOIL = {
    "preprocess": "claims",
    "train-1": "bytes",
    "train-2": "shapes",
    "train-3": "torn",
    "train-4": "half",
    "train-5": "values",
    "train-6": "nan",
    "train-7": "noise",
    "train-8": "numbers",
    "analyze": "numbers",
    "finish": "refusal",
}


class GarbageSite(Site):
    """A site where a node may be any Python program."""

    def command(self, words: tuple[str, ...]) -> list[str]:
        return [sys.executable, *words] if words[0].endswith(".py") else super().command(words)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GarbageSite]:
    made = GarbageSite(tmp_path_factory.mktemp("site"))
    try:
        made.set_up()
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def done(site: GarbageSite) -> Done:
    """What a run with one such node came to."""
    site.up()
    for name in NAMES[:2]:
        site.join(name)
    (site.folder / "third" / "spoil.json").write_text(json.dumps(SPOIL))
    node = site.start(garbage.__file__, "third", "data/third")
    site.wait_for(lambda: site.state("third") == (node.pid, "connected"), node)
    return site.cycle(
        "--set=training.num_rounds=8", "--set=training.on_missing=continue", "--set=training.min_cohort=2"
    )


def test_the_run_goes_on_without_it(done: Done) -> None:
    assert done.json["model_version"] == "breast_cancer:1"
    assert done.json["rounds"] == 8


def test_it_is_named_once_for_each_thing_that_it_spoils(done: Done) -> None:
    notes = " ".join(done.err.split())

    assert "Goes on without an answer to preprocess from third: the answer was malformed" in notes
    assert notes.count("Training goes on without third from round 1: the answer was malformed") == 1
    assert notes.count("updates were set aside or shortened: third. third: its update was") == 1
    assert "Goes on without an answer to analyze from third: Expected whole numbers" in notes


def test_the_report_names_it(done: Done) -> None:
    report = Path(done.json["paths"]["report"]).read_text()

    assert "third (round 1, 2, 3" in report
    assert "third, in round 8: its update was" in report


def test_nobody_else_s_log_notices(site: GarbageSite, done: Done) -> None:
    assert done.code == 0
    told: list[dict[str, Any]] = [line for name in ("fed", *NAMES[:2]) for line in site.log(name)]

    assert {line["level"] for line in told} == {"info"}
    assert "Traceback" not in done.err
