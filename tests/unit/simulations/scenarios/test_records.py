from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from fedpipe.data import open_shard
from simulations.scenarios.records import LATE_RECORDS, exported, records_until
from simulations.scenarios.settings import Scenario

Make = Callable[..., Scenario]
REEXPORT = {"week": 4, "kind": "reexport", "clients": [2], "share": 0.25}


def of_week(frame: pd.DataFrame, client: int, week: int) -> pd.DataFrame:
    return frame[frame["case_id"].str.startswith(f"{client}-{week}-")].reset_index(drop=True)


def test_records_are_the_same_whenever_they_are_asked_for(make_scenario: Make) -> None:
    scenario = make_scenario()
    later, earlier = records_until(scenario, 1, 3), records_until(make_scenario(weeks=9), 1, 2)
    assert of_week(later, 1, 2).equals(of_week(earlier, 1, 2))
    assert not of_week(records_until(make_scenario(seed=1), 1, 2), 1, 2).equals(of_week(earlier, 1, 2))
    assert later["case_id"].is_unique


def test_owners_keep_two_windows(make_scenario: Make) -> None:
    frame = records_until(make_scenario(), 1, 6)
    assert {name.split("-")[1] for name in frame["case_id"]} == {"3", "4", "5", "6"}


def test_dates_lie_in_the_week_that_the_record_belongs_to(make_scenario: Make) -> None:
    scenario = make_scenario(REEXPORT)
    for name, day in records_until(scenario, 2, 5)[["case_id", "received"]].to_numpy():
        year, week, _ = pd.Timestamp(day).isocalendar()
        assert f"{year}-W{week:02d}" == scenario.span(int(name.split("-")[1]))


def test_a_silent_week_has_no_record_and_only_there(make_scenario: Make) -> None:
    scenario = make_scenario({"week": 2, "kind": "silent", "clients": [3]})
    assert len(of_week(records_until(scenario, 3, 3), 3, 2)) == 0
    assert len(of_week(records_until(scenario, 3, 3), 3, 3)) > 100
    assert len(of_week(records_until(scenario, 1, 3), 1, 2)) > 100


def test_a_client_has_records_from_the_week_it_joins(make_scenario: Make) -> None:
    scenario = make_scenario({"week": 3, "kind": "joins", "clients": [4]}, REEXPORT | {"clients": []})
    assert len(records_until(scenario, 4, 2)) == 0
    assert {name.split("-")[1] for name in records_until(scenario, 4, 5)["case_id"]} == {"3", "4", "5"}


def test_a_client_that_was_away_comes_back_with_what_it_collected(make_scenario: Make) -> None:
    away = make_scenario({"week": 2, "weeks": 2, "kind": "away", "clients": [1]})
    assert records_until(away, 1, 4).equals(records_until(make_scenario(), 1, 4))


def test_labels_shift_and_features_given_the_label_do_not(make_scenario: Make) -> None:
    event = {"week": 2, "kind": "positive_share", "share": 0.7}
    scenario = make_scenario(event, records_per_week=4000, drift_per_week=0)
    frame = records_until(scenario, 1, 2)
    before, after = of_week(frame, 1, 1), of_week(frame, 1, 2)
    assert abs((before["disputed"] == "yes").mean() - 0.5) < 0.03
    assert abs((after["disputed"] == "yes").mean() - 0.7) < 0.03
    for label in ("yes", "no"):
        means = [week[week["disputed"] == label]["amount"].astype(float).mean() for week in (before, after)]
        assert abs(means[0] - means[1]) < 12


def test_drift_moves_both_classes_alike(make_scenario: Make) -> None:
    frame = records_until(make_scenario(records_per_week=4000, drift_per_week=0.1, window=5), 1, 10)
    for label in ("yes", "no"):
        weeks = [of_week(frame, 1, number) for number in (1, 10)]
        means = [week[week["disputed"] == label]["amount"].astype(float).mean() for week in weeks]
        assert abs(means[1] - means[0] - 0.9 * 120) < 15


def test_a_column_goes_missing_until_it_is_exported_again(make_scenario: Make) -> None:
    gaps = {"week": 3, "kind": "missing_column", "column": "amount", "share": 0.9}
    scenario = make_scenario(gaps, REEXPORT | {"clients": []})
    missing = (of_week(records_until(scenario, 1, 3), 1, 3)["amount"] == "").mean()
    assert 0.8 < missing < 1
    assert not (records_until(scenario, 1, 4)["amount"] == "").any()


def test_a_reexport_amends_records_and_moves_none_to_another_block(make_scenario: Make) -> None:
    scenario = make_scenario(REEXPORT)
    before, after = records_until(make_scenario(), 2, 4), records_until(scenario, 2, 4)
    late = after["case_id"].str.contains("late")
    assert late.sum() == 2 * LATE_RECORDS
    known = after[~late].reset_index(drop=True)
    assert known[["case_id", "received", "disputed"]].equals(before[["case_id", "received", "disputed"]])
    earlier = known["case_id"].str.split("-").str[1].astype(int) < 4
    amended = known["amount"] != before["amount"]
    assert 0.15 < amended[earlier].mean() < 0.35
    assert not amended[~earlier].any()
    assert records_until(scenario, 1, 4).equals(records_until(make_scenario(), 1, 4))


def test_the_reexported_file_reads_as_the_same_spans_and_splits(make_scenario: Make, tmp_path: Path) -> None:
    """Other names, another format of dates, another order: a record's block depends on none of them."""
    scenario, blocks = make_scenario(REEXPORT), []
    for number, export in enumerate((records_until(scenario, 2, 4), exported(scenario, 2, 4))):
        path = tmp_path / f"{number}.csv"
        export.to_csv(path, index=False)
        schema = scenario.config(4).data_schema
        shard = open_shard(path, schema, eval_fraction=0.25, split_key=b"k" * 32)
        names = shard.frame["case_id"]
        blocks.append(dict(zip(names, zip(shard.spans, shard.is_eval, strict=True), strict=True)))
    assert list(exported(scenario, 2, 4).columns[:2]) == ["Case ID", "Received"]
    assert list(exported(scenario, 2, 3).columns[:2]) == ["case_id", "received"]
    assert blocks[0] == blocks[1]
    assert {str(span) for span, _ in blocks[0].values()} == set(map(scenario.span, range(1, 5)))


def test_the_label_can_be_learnt(make_scenario: Make) -> None:
    frame = records_until(make_scenario(records_per_week=2000), 1, 1)
    positive = frame["disputed"] == "yes"
    distance = (
        frame["amount"].astype(float)[positive].mean() - frame["amount"].astype(float)[~positive].mean()
    )
    assert np.isclose(distance, 0.9 * 120, atol=15)
