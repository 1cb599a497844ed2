from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedpipe.errors import ConfigError
from simulations.scenarios.settings import YEAR, Scenario, load_scenario

Make = Callable[..., Scenario]


def test_the_year_that_comes_with_fedpipe_is_a_scenario() -> None:
    year = load_scenario(YEAR)
    assert (year.weeks, year.window, year.num_clients) == (52, 4, 6)
    assert {event.kind for event in year.events} == {
        *("silent", "away", "joins", "extra_run", "missing_column", "reexport", "positive_share")
    }
    assert all(event.week <= year.weeks for event in year.events)


def test_a_run_uses_the_window_or_what_there_has_been(make_scenario: Make) -> None:
    scenario = make_scenario(window=3)
    assert scenario.spans(1) == ("2026-W02",)
    assert scenario.spans(2) == ("2026-W02", "2026-W03")
    assert scenario.spans(5) == ("2026-W04", "2026-W05", "2026-W06")
    config = scenario.config(5)
    assert (config.spans.last, config.spans.until) == (3, "2026-W06")


def test_a_block_affords_as_many_runs_as_the_window_has_weeks(make_scenario: Make) -> None:
    assert make_scenario(window=3).config(1).privacy.lifetime_runs == 3


def test_every_client_is_its_own_file_however_few_records_it_has(make_scenario: Make) -> None:
    federation = make_scenario().config(1).federation
    assert (federation.partition, federation.small_clients) == ("file", "keep")


def test_weeks_pass_the_end_of_a_year(make_scenario: Make) -> None:
    assert make_scenario().span(52) == "2026-W53"
    assert make_scenario().span(53) == "2027-W01"


def test_who_is_there(make_scenario: Make) -> None:
    scenario = make_scenario(
        {"week": 2, "weeks": 2, "kind": "away", "clients": [1]},
        {"week": 3, "kind": "joins", "clients": [4]},
    )
    there = {week: scenario.present(week) for week in range(1, 5)}
    assert there == {1: (1, 2, 3), 2: (2, 3), 3: (2, 3, 4), 4: (1, 2, 3, 4)}


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"week": 1, "kind": "missing_column", "share": 0.5}, "a column exactly"),
        ({"week": 1, "kind": "reexport"}, "a share exactly"),
        ({"week": 1, "kind": "silent", "share": 0.5}, "a share exactly"),
        ({"week": 1, "kind": "away"}, "the clients that away"),
        ({"week": 1, "kind": "gone"}, "Input should be"),
        ({"week": 2, "kind": "away", "clients": [1, 2, 3]}, "2 clients or more in every week"),
    ],
)
def test_events_that_make_no_sense_are_refused(make_scenario: Make, event: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_scenario(event)


def test_files_that_are_no_scenario_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none that can be read"):
        load_scenario(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(ConfigError, match="something else"):
        load_scenario(tmp_path / "list.yaml")


def test_the_answer_to_a_shift_can_be_chosen(make_scenario: Make) -> None:
    assert make_scenario().config(1).validation.on_label_shift == "warn"
    chosen = make_scenario(on_label_shift="reweight").config(1).validation
    assert (chosen.on_label_shift, chosen.on_anomaly) == ("reweight", "stop")
    with pytest.raises(ConfigError, match="on_label_shift"):
        make_scenario(on_label_shift="shrug")
