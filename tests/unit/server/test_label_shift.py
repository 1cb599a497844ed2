"""Label shift: what is an alert, what is noise, and what training does about it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpipe.config import ValidateSettings
from fedpipe.data.spans import newest_spans
from server.artifacts import Statistics
from server.steps.label_shift import Shift, client_shifts, make_balance, span_shifts

EVEN, SHIFTED, NEARLY = (500, 500), (300, 700), (480, 520)
NOISE = 5.0  # of a cell at epsilon 8, with the default share of the budget


def settings(**changes: Any) -> ValidateSettings:
    return ValidateSettings.model_validate(changes)


def statistics(
    *spans: tuple[int, ...], clients: int = 1, noise: float = 0.0, last: str = "2026-10", seed: int = 0
) -> Statistics:
    """Counts by span, divided evenly among clients and over both splits, with noise in every cell."""
    generator = np.random.default_rng(seed)
    counts = np.zeros((clients, len(spans), 2, len(spans[0]) + 1))
    counts[:, :, 0, :-1] = 0.75 * np.array(spans) / clients
    counts[:, :, 1, :-1] = 0.25 * np.array(spans) / clients
    noisy = np.rint(counts + generator.normal(0, noise, counts.shape)).astype(int)
    return Statistics(
        spans=newest_spans(last, len(spans)),
        label_counts={f"client-{number}": table.tolist() for number, table in enumerate(noisy)},
        column_health={},
        label_noise_stddev=noise,
        column_noise_stddev=0.0,
    )


def named(shifts: tuple[Shift, ...]) -> list[tuple[str, str]]:
    return [(shift.earlier, shift.later) for shift in shifts]


@pytest.mark.parametrize("clients", [1, 10])
@pytest.mark.parametrize("seed", range(5))
def test_from_even_to_seventy_thirty_is_an_alert(clients: int, seed: int) -> None:
    found = statistics(EVEN, SHIFTED, clients=clients, noise=NOISE, seed=seed)
    [shift] = span_shifts(found, settings())
    assert (shift.earlier, shift.later) == ("2026-09", "2026-10")
    assert shift.share_before + shift.share_after == pytest.approx(1.2 if shift.label else 0.8, abs=0.1)
    assert span_shifts(statistics(EVEN, NEARLY, clients=clients, noise=NOISE, seed=seed), settings()) == ()


def test_a_hundred_records_without_privacy_are_enough() -> None:
    assert named(span_shifts(statistics((52, 48), (28, 72)), settings())) == [("2026-09", "2026-10")]
    assert span_shifts(statistics((52, 48), (48, 52)), settings()) == ()


def test_the_error_by_hand() -> None:
    [shift] = span_shifts(statistics((52, 48), (32, 68)), settings())
    # Pooled share 0.58 or 0.42: variance 2 * 0.58 * 0.42 / 100.
    assert shift.deviations == pytest.approx(0.2 / (2 * 0.58 * 0.42 / 100) ** 0.5)
    counts = statistics((520, 480), (320, 680), clients=1)
    noisy = counts.model_copy(update={"label_noise_stddev": 10.0})
    [shift] = span_shifts(noisy, settings())
    noise = 2 * 10.0**2 * (0.58**2 + 0.42**2) / 1000**2  # two splits in each count
    assert shift.deviations == pytest.approx(0.2 / (2 * (0.58 * 0.42 / 1000 + noise)) ** 0.5)


def test_a_sure_but_small_change_is_no_alert() -> None:
    found = statistics((50_000, 50_000), (54_000, 46_000))
    assert span_shifts(found, settings()) == ()
    assert len(span_shifts(found, settings(max_label_shift=0.03))) == 1


def test_a_large_change_that_noise_explains_is_no_alert() -> None:
    counts = statistics(EVEN, SHIFTED)
    assert span_shifts(counts, settings())
    assert span_shifts(counts.model_copy(update={"label_noise_stddev": 60.0}), settings()) == ()


def test_false_alarms_are_rare_over_a_year_of_equal_weeks() -> None:
    """Sixty simulated years of 52 weeks, 200 records each: at most 1 in 10 with any alert at all."""
    generator = np.random.default_rng(1)
    alarms = 0
    for seed in range(60):
        weeks = [(200 - n, n) for n in generator.binomial(200, 0.3, 52)]
        found = statistics(*weeks, clients=4, noise=1.0, last="2026-W40", seed=seed)
        alarms += bool(span_shifts(found, settings()))
    assert alarms <= 6


def test_spans_without_enough_records_are_passed_over() -> None:
    found = statistics(EVEN, (1, 0), (0, 0), SHIFTED, noise=NOISE)
    assert named(span_shifts(found, settings())) == [("2026-07", "2026-10")]


@pytest.mark.parametrize("spans", [[(0, 0)], [(0, 0), (0, 0)], [(500, 500)], [(-4, 3), (2, -9)]])
def test_nothing_to_compare_is_no_alert(spans: list[tuple[int, int]]) -> None:
    assert span_shifts(statistics(*spans), settings()) == ()
    assert client_shifts(statistics(*spans), settings()) == ()


def test_an_earlier_run_gives_the_span_before_the_first() -> None:
    earlier = statistics(SHIFTED, EVEN, last="2026-09", noise=NOISE)
    now = statistics(SHIFTED, last="2026-10", noise=NOISE)
    assert named(span_shifts(now, settings(), earlier)) == [("2026-09", "2026-10")]
    for other in ("2026-08", "2026-10", "2026-Q3"):
        unrelated = statistics(EVEN, last=other, noise=NOISE)
        assert span_shifts(now, settings(), unrelated) == ()


def test_an_earlier_run_counts_over_the_clients_of_both() -> None:
    earlier = statistics((2000, 2000), clients=2, last="2026-09", noise=NOISE)
    now = statistics((600, 1400), clients=2, last="2026-10", noise=NOISE)
    gone = {f"gone-{number}": table for number, table in enumerate(earlier.label_counts.values())}
    strangers = earlier.model_copy(update={"label_counts": gone})
    assert span_shifts(now, settings(), strangers) == ()
    assert len(span_shifts(now, settings(), earlier)) == 1


def test_undated_runs_have_no_span_before() -> None:
    counts = {"client-0": [[[300, 700, 0], [0, 0, 0]]]}
    now = Statistics(
        spans=("undated",),
        label_counts=counts,
        column_health={},
        label_noise_stddev=0.0,
        column_noise_stddev=0.0,
    )
    assert span_shifts(now, settings(), now) == ()


def test_of_several_classes_the_largest_change_is_told() -> None:
    [shift] = span_shifts(statistics((400, 400, 200), (400, 200, 400)), settings())
    assert (shift.label, shift.change) == (1, pytest.approx(0.2))


def test_a_client_unlike_all_others_is_noted() -> None:
    alike = [[[400, 100, 0], [100, 25, 0]]]
    counts = {f"client-{n}": alike for n in range(4)} | {"odd": [[[100, 400, 0], [25, 100, 0]]]}
    found = Statistics(
        spans=("undated",),
        label_counts=counts,
        column_health={},
        label_noise_stddev=NOISE,
        column_noise_stddev=0.0,
    )
    [shift] = client_shifts(found, settings())
    assert (shift.later, shift.label) == ("odd", 0)
    assert (shift.share_before, shift.share_after) == (pytest.approx(0.8), pytest.approx(0.2))
    assert client_shifts(found, settings(max_client_shift=0.7)) == ()


# --- the answer -----------------------------------------------------------------------------


def balance_of(found: Statistics, **changes: Any) -> Any:
    chosen = settings(**changes)
    return make_balance(found, span_shifts(found, chosen), chosen, num_classes=2)


@pytest.mark.parametrize("answer", ["warn", "stop", "reweight", "resample"])
def test_without_an_alert_all_weights_are_one(answer: str) -> None:
    balance = balance_of(statistics(EVEN, NEARLY), on_label_shift=answer)
    assert balance.answer == "none"
    assert balance.weights == ((1.0, 1.0), (1.0, 1.0))


def test_a_warning_changes_no_weight() -> None:
    assert balance_of(statistics(EVEN, SHIFTED), on_label_shift="warn").answer == "none"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("newest", [(3 / 7, 1.0), (1.0, 1.0)]),
        ("previous", [(1.0, 1.0), (1.0, 3 / 7)]),
        ("even", [(1.0, 1.0), (1.0, 3 / 7)]),
    ],
)
def test_weights_lead_to_the_target(target: str, expected: list[tuple[float, float]]) -> None:
    balance = balance_of(statistics(EVEN, SHIFTED), on_label_shift="resample", shift_target=target)
    assert balance.answer == "resample"
    assert balance.spans == ("2026-09", "2026-10")
    for row, wanted in zip(balance.weights, expected, strict=True):
        assert row == pytest.approx(wanted)


def test_an_unknown_span_keeps_its_records() -> None:
    balance = balance_of(statistics(EVEN, (0, 0), SHIFTED), on_label_shift="reweight")
    assert balance.weights[1] == (1.0, 1.0)
    assert balance.weights[0][0] < 1


shares = st.tuples(st.integers(0, 3000), st.integers(0, 3000), st.integers(0, 3000))


@given(st.lists(shares, min_size=2, max_size=5), st.sampled_from(["newest", "previous", "even"]))
def test_weights_are_at_most_one_and_never_nothing(spans: list[tuple[int, ...]], target: str) -> None:
    found, chosen = statistics(*spans), settings(on_label_shift="reweight", shift_target=target)
    balance = make_balance(found, span_shifts(found, chosen), chosen, num_classes=3)
    for row, span in zip(balance.weights, spans, strict=True):
        assert max(row) == 1.0
        assert min(row) >= 0.05
        assert len(row) == len(span)


def test_after_weighting_all_spans_have_the_target_balance() -> None:
    spans = [(600, 300, 100), (200, 400, 400), (300, 300, 400)]
    found, chosen = statistics(*spans), settings(on_label_shift="reweight")
    balance = make_balance(found, span_shifts(found, chosen), chosen, num_classes=3)
    for row, span in zip(balance.weights, spans, strict=True):
        weighed = np.array(row) * np.array(span)
        assert weighed / weighed.sum() == pytest.approx([0.3, 0.3, 0.4], abs=0.01)


def test_sizes_follow_the_weights() -> None:
    found = statistics(EVEN, SHIFTED, clients=2)
    balance = balance_of(found, on_label_shift="reweight", shift_target="previous")
    plain, weighed = found.train_sizes(), found.train_sizes(balance)
    assert sum(plain.values()) == pytest.approx(1500, abs=4)
    assert sum(weighed.values()) == pytest.approx(750 + 225 + 525 * 3 / 7, abs=4)
    noisy = found.model_copy(update={"label_noise_stddev": 2.0})
    assert noisy.size_noise_stddev(2) == pytest.approx(4.0)
    assert noisy.size_noise_stddev(2, balance) == pytest.approx(2 * (3 + (3 / 7) ** 2) ** 0.5, rel=0.01)
