"""Five weeks with a mishap in each, killed in the middle, and taken up again by the same command."""

from __future__ import annotations

import json
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fedpipe.ledger import Ledger

pytestmark = pytest.mark.slow

STORY = """
weeks: 5
window: 2
num_clients: 3
records_per_week: 150
events:
  - {week: 1, kind: silent, clients: [2]}
  - {week: 2, kind: extra_run}
  - {week: 4, kind: away, clients: [3]}
  - {week: 5, kind: positive_share, share: 0.95}
problem:
  name: weekly
  schema:
    label: {name: disputed, classes: {"no": [], "yes": []}}
    key: case_id
    time: {column: received, window: week}
    columns:
      amount: {type: numeric, minimum: 0, maximum: 1000}
      channel: {type: categorical, vocabulary: [letter, phone, web]}
  model: {name: weekly}
  training: {num_rounds: 6, min_cohort: 2, round_timeout_seconds: 1}
"""


@dataclass(frozen=True, kw_only=True)
class Told:
    """The story, told in two or three lives."""

    workspace: Path
    data: dict[str, Any]
    first_week: tuple[bytes, bytes]
    spent: tuple[list[float], list[float]]
    again: dict[str, Any]


def spending(workspace: Path) -> list[float]:
    with Ledger(workspace / "ledger.sqlite") as ledger:
        return [each.held for each in ledger.spending()]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, shell: Any) -> Told:
    folder = tmp_path_factory.mktemp("weeks")
    (folder / "story.yaml").write_text(STORY)
    workspace = folder / "workspace"
    words = ("scenario", "weeks", f"--story={folder / 'story.yaml'}", f"--workspace={workspace}", "--json")

    def second_run_trains() -> bool:
        begun = len(list(workspace.glob("runs/*/train"))) == 2
        return begun and any(workspace.glob("runs/*/train/checkpoint.npz"))

    process = shell.launch(*words, module="fedpipe")
    shell.wait_for(second_run_trains, process)
    process.send_signal(signal.SIGKILL)
    assert shell.finish(process).code == -signal.SIGKILL
    path = workspace / "scenario" / "week-0001.json"
    before = path.read_bytes()
    data = shell.run(*words, module="fedpipe").json
    spent = spending(workspace)
    again = shell.run(*words, module="fedpipe").json
    return Told(
        workspace=workspace,
        data=data,
        first_week=(before, path.read_bytes()),
        spent=(spent, spending(workspace)),
        again=again,
    )


def test_every_week_has_the_fate_that_its_events_bring(told: Told) -> None:
    fates = [[attempt["fate"] for attempt in week["attempts"]] for week in told.data["weeks"]]
    # The extra run took what the records of week 2 would have had for week 3.
    assert fates == [["trained"], ["trained", "trained"], ["refused"], ["trained"], ["trained"]]
    versions = [a["model_version"] for w in told.data["weeks"] for a in w["attempts"] if a["model_version"]]
    assert versions == [f"weekly:{number}" for number in range(1, 6)]
    assert "within the budget" in told.data["weeks"][2]["attempts"][0]["reason"]
    assert told.data["weeks"][3]["attempts"][0]["clients"] == ["client-1", "client-2"]
    assert any("the share of" in alert for alert in told.data["weeks"][4]["attempts"][0]["alerts"])


def test_weeks_that_were_over_are_neither_run_nor_paid_again(told: Told) -> None:
    assert told.first_week[0] == told.first_week[1]
    runs = [attempt["run_ids"] for week in told.data["weeks"] for attempt in week["attempts"]]
    assert all(len(each) == 1 for each in runs)
    assert len(list((told.workspace / "runs").iterdir())) == len(runs)
    assert told.spent[0] == told.spent[1]
    assert told.again == told.data


def test_the_filter_admitted_exactly_what_it_should(told: Told) -> None:
    assert told.data["admission"] == {"admitted": 3 + 3 + 3 + 2 + 3, "refused": 3, "faults": []}
    trainings = {
        (block["client"], block["span"]): block["trainings"]
        for block in told.data["blocks"]
        if block["split"] == "train"
    }
    assert trainings == {
        **{(f"weekly.client-{n}", "2026-W02"): 2 for n in (1, 2, 3)},
        **{(f"weekly.client-{n}", "2026-W03"): 2 for n in (1, 2, 3)},
        **{(f"weekly.client-{n}", "2026-W04"): 1 for n in (1, 2)},
        **{(f"weekly.client-{n}", "2026-W05"): 2 for n in (1, 2)},
        ("weekly.client-3", "2026-W05"): 1,
        **{(f"weekly.client-{n}", "2026-W06"): 1 for n in (1, 2, 3)},
    }
    assert all(block["spent"] <= block["budget"] for block in told.data["blocks"])


def test_the_report_stands_alone(told: Told) -> None:
    page = (told.workspace / "scenario" / "report.html").read_text()
    assert "The filter admitted exactly what it should" in page
    assert not re.findall(r"https?://|<script|<link(?! rel=\"icon\" href=\"data:,\")|url\(", page)
    assert json.loads((told.workspace / "scenario" / "report.json").read_text()) == told.data
