"""Statistics and validate: noisy counts, and what is said about them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from fedpipe.config import ValidateSettings
from fedpipe.data.spans import newest_spans
from fedpipe.errors import DataError, FederationError
from fedpipe.federation import Refusal, Reply
from fedpipe.federation.terms import RunTerms
from fedpipe.ledger.certificate import Commitment
from server.artifacts import Anomalies, Spans, Statistics
from server.steps.asking import Asker
from server.steps.statistics import gather_statistics
from server.steps.validate import validate

MakeAsker = Callable[..., Asker]
Counts = Callable[..., Reply]
NOISE = 3.0


def spans(*clients: str) -> Spans:
    commitments = tuple(
        Commitment(client=client, span="undated", hmac_sha256="ab" * 32) for client in clients
    )
    return Spans(schema_version="1", commitments=commitments, code={}, refusals={})


def run(asker: Asker, tmp_path: Path, *clients: str, **settings: Any) -> tuple[Statistics, Anomalies]:
    participants = spans(*(clients or ("a", "b")))
    statistics = gather_statistics(participants, directory=tmp_path, asker=asker)["statistics"]
    made = validate(
        statistics,
        directory=tmp_path,
        schema=asker.terms.data_schema,
        settings=ValidateSettings.model_validate(settings),
    )
    return statistics, cast(Anomalies, made["anomalies"])


def test_counts_are_kept_by_client_and_health_is_summed(
    make_asker: MakeAsker, counts: Counts, tmp_path: Path
) -> None:
    answers = [counts("a", [60, 40, 1]), counts("b", [20, 30, -2], age=[40, 5, 3, 0])]
    statistics, anomalies = run(make_asker({"statistics": answers}), tmp_path)
    assert statistics.label_counts["b"] == [[[20, 30, -2], [1, 1, 0]]]
    assert statistics.column_health == {"age": [141, 5, 3, 0], "town": [149, 0, 0, 0]}
    assert statistics.class_counts("train") == [80, 70, -1]
    assert statistics.class_counts("eval") == [2, 2, 0]
    assert statistics.train_sizes() == {"a": 100.0, "b": 50.0}
    assert anomalies.found == ()


def test_noise_is_stated_for_one_client_and_for_the_sum(
    make_asker: MakeAsker, counts: Counts, tmp_path: Path
) -> None:
    names = ("a", "b", "c", "d")
    answers = [counts(name, [60, 40, 0]) for name in names]
    statistics, _ = run(make_asker({"statistics": answers}), tmp_path, *names)
    assert statistics.label_noise_stddev == NOISE
    assert statistics.column_noise_stddev == 2 * NOISE
    assert statistics.total_noise_stddev(1) == 2 * NOISE
    assert statistics.total_noise_stddev(4) == 4 * NOISE


def test_clients_that_did_not_accept_are_not_counted(
    make_asker: MakeAsker, counts: Counts, tmp_path: Path
) -> None:
    answers = [counts("a", [60, 40, 0]), counts("stranger", [5000, 0, 0])]
    statistics, _ = run(make_asker({"statistics": answers}), tmp_path, "a")
    assert list(statistics.label_counts) == ["a"]
    assert statistics.column_health["age"] == [100, 0, 0, 0]


def test_a_client_that_misses_this_step_is_left_out(
    make_asker: MakeAsker, counts: Counts, tmp_path: Path
) -> None:
    answers = [counts("a", [60, 40, 0]), Refusal(client="b", reason="away")]
    statistics, _ = run(make_asker({"statistics": answers}), tmp_path)
    assert list(statistics.train_sizes()) == ["a"]


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"labels": np.zeros((2, 3), np.int64)},
        {"labels": np.zeros(6, np.int64), "columns": np.zeros((2, 4), np.int64)},
        {"labels": np.zeros((2, 4), np.int64), "columns": np.zeros((2, 4), np.int64)},
        {"labels": np.zeros((2, 3), np.int64), "columns": np.zeros((4, 2), np.int64)},
        {"labels": np.full((1, 2, 3), np.nan), "columns": np.zeros((2, 4), np.int64)},
        {"labels": np.full((1, 2, 3), 0.5), "columns": np.zeros((2, 4), np.int64)},
        {"labels": np.full((1, 2, 3), 2**62), "columns": np.zeros((2, 4), np.int64)},
    ],
)
def test_whose_counts_are_none_is_left_out(
    make_asker: MakeAsker, counts: Counts, tmp_path: Path, arrays: dict[str, Any]
) -> None:
    odd = Reply(client="odd", arrays=arrays)
    asker = make_asker({"statistics": [counts("a", [60, 40, 0]), odd]})
    statistics, _ = run(asker, tmp_path, "a", "odd")
    assert list(statistics.label_counts) == ["a"]
    with pytest.raises(FederationError, match="from odd"):
        run(make_asker({"statistics": [odd]}), tmp_path, "odd")


def _problems(anomalies: Anomalies) -> list[tuple[str, str]]:
    return [(anomaly.column, anomaly.severity) for anomaly in anomalies.found]


def test_a_column_that_is_mostly_unusable_is_a_warning(
    make_asker: MakeAsker, counts: Counts, tmp_path: Path
) -> None:
    answers = [counts("a", [300, 200, 0], age=[40, 260, 0, 200])]
    _, anomalies = run(make_asker({"statistics": answers}), tmp_path, "a")
    assert _problems(anomalies) == [("age", "warning")]
    assert "92%" in anomalies.found[0].problem


def test_noise_alone_makes_no_warning(make_asker: MakeAsker, counts: Counts, tmp_path: Path) -> None:
    """55 % of 40 records may well be 45 %: the noise of the counts is 3."""
    answers = [counts("a", [20, 20, 0], age=[18, 22, 0, 0])]
    _, anomalies = run(make_asker({"statistics": answers}), tmp_path, "a")
    assert anomalies.found == ()


def test_suspicious_columns_stop_a_run_that_is_told_so(
    make_asker: MakeAsker, counts: Counts, tmp_path: Path
) -> None:
    answers = [counts("a", [300, 200, 0], age=[40, 460, 0, 0])]
    with pytest.raises(DataError, match=r"'age'.*Nothing was spent on training"):
        run(make_asker({"statistics": answers}), tmp_path, "a", on_anomaly="stop")


@pytest.mark.parametrize("train", [[0, 0, 400], [2, -1, 0], [-5, -5, -5]], ids=str)
def test_too_few_labelled_records_stop_the_run(
    make_asker: MakeAsker, counts: Counts, tmp_path: Path, train: list[int]
) -> None:
    with pytest.raises(DataError, match=r"min_records=20"):
        run(make_asker({"statistics": [counts("a", train)]}), tmp_path, "a")


def test_a_single_class_stops_the_run(make_asker: MakeAsker, counts: Counts, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="only one class"):
        run(make_asker({"statistics": [counts("a", [500, -12, 0])]}), tmp_path, "a")


def test_mostly_unlabelled_records_are_a_warning(
    make_asker: MakeAsker, counts: Counts, tmp_path: Path
) -> None:
    _, anomalies = run(make_asker({"statistics": [counts("a", [40, 30, 5000])]}), tmp_path, "a")
    assert _problems(anomalies) == [("ill", "warning")]


@pytest.fixture
def monthly(make_asker: MakeAsker, make_terms: Callable[..., RunTerms]) -> Callable[..., Asker]:
    """Returns an asker of one client who counts [no, yes] of each of the months up to October."""

    def make(*months: tuple[int, int]) -> Asker:
        schema = make_terms().data_schema.model_dump() | {"time": {"column": "received"}}
        labels = np.array([[[no, yes, 0], [0, 0, 0]] for no, yes in months], dtype=np.int64)
        health = np.full((2, 4), [int(labels.sum()), 0, 0, 0], dtype=np.int64)
        answer = Reply(client="a", arrays={"labels": labels, "columns": health})
        return make_asker(
            {"statistics": [answer]}, data_schema=schema, spans=newest_spans("2026-10", len(months))
        )

    return make


def check(asker: Asker, tmp_path: Path, reference: Statistics | None = None, **settings: Any) -> Any:
    chosen = ValidateSettings.model_validate(settings)
    statistics = gather_statistics(spans("a"), directory=tmp_path, asker=asker)["statistics"]
    schema = asker.terms.data_schema
    return validate(statistics, directory=tmp_path, schema=schema, settings=chosen, reference=reference)


def test_a_shift_of_labels_is_told_and_nothing_else_changes(
    monthly: Callable[..., Asker], tmp_path: Path
) -> None:
    made = check(monthly((500, 500), (300, 700)), tmp_path, on_anomaly="stop")
    [anomaly] = made["anomalies"].found
    assert (anomaly.column, anomaly.severity) == ("ill", "warning")
    assert anomaly.problem == "the share of 'no' went from about 50% in 2026-09 to about 30% in 2026-10"
    assert made["balance"].answer == "none"


def test_what_the_policy_ignores_is_noted_down_only(monthly: Callable[..., Asker], tmp_path: Path) -> None:
    made = check(monthly((500, 500), (300, 700)), tmp_path, on_label_shift="ignore")
    assert [anomaly.severity for anomaly in made["anomalies"].found] == ["notice"]
    assert made["balance"].answer == "none"


def test_a_shift_of_labels_stops_the_run_if_the_policy_says_so(
    monthly: Callable[..., Asker], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"went from about 50% in 2026-09.*Nothing was spent on training"):
        check(monthly((500, 500), (300, 700)), tmp_path, on_label_shift="stop")
    assert check(monthly((500, 500), (480, 520)), tmp_path, on_label_shift="stop")["anomalies"].found == ()


@pytest.mark.parametrize("answer", ["reweight", "resample"])
def test_training_answers_a_shift(monthly: Callable[..., Asker], tmp_path: Path, answer: str) -> None:
    balance = check(monthly((500, 500), (300, 700)), tmp_path, on_label_shift=answer)["balance"]
    assert balance.answer == answer
    assert balance.weights[0] == pytest.approx((3 / 7, 1.0), abs=0.02)


def test_an_earlier_run_is_compared_with(monthly: Callable[..., Asker], tmp_path: Path) -> None:
    now = monthly((300, 700))
    earlier = Statistics(
        spans=("2026-08", "2026-09"),
        label_counts={"a": [[[300, 700, 0], [0, 0, 0]], [[500, 500, 0], [0, 0, 0]]]},
        column_health={},
        label_noise_stddev=NOISE,
        column_noise_stddev=NOISE,
    )
    assert check(now, tmp_path)["anomalies"].found == ()
    [anomaly] = check(now, tmp_path, earlier)["anomalies"].found
    assert "in 2026-09" in anomaly.problem


def test_an_odd_client_is_a_notice_that_stops_nothing(
    make_asker: MakeAsker, counts: Counts, tmp_path: Path
) -> None:
    alike = ("a", "b", "c", "d")
    answers = [*(counts(name, [800, 200, 0]) for name in alike), counts("odd", [200, 800, 0])]
    asker = make_asker({"statistics": answers})
    _, anomalies = run(asker, tmp_path, *alike, "odd", on_anomaly="stop", on_label_shift="stop")
    assert [anomaly.severity for anomaly in anomalies.found] == ["notice"]
    assert "at odd, and about" in anomalies.found[0].problem
