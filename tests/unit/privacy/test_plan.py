from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from fedpipe.privacy import DpSgd, NoisyHistograms, PrivacyPlan, Query, epsilon
from fedpipe.privacy.plan import Split

COUNTS = NoisyHistograms(noise_stddev=20.0, num_histograms=5)
SGD = DpSgd(sampling_probability=0.1, clipping_norm=2.0, noise_multiplier=1.7, num_rounds=10, local_steps=3)
PLACES: dict[str, tuple[str, tuple[Split, ...], NoisyHistograms | DpSgd]] = {
    "labels": ("statistics", ("train", "eval"), NoisyHistograms(noise_stddev=15.0, num_histograms=1)),
    "columns": ("statistics", ("train", "eval"), COUNTS),
    "features": ("preprocess", ("train",), COUNTS),
    "training": ("train", ("train",), SGD),
    "evaluation": ("analyze", ("eval",), NoisyHistograms(noise_stddev=6.0, num_histograms=2)),
}


def queries(*names: str, keyed: bool = True) -> dict[str, Query]:
    return {
        name: Query(
            step=PLACES[name][0], splits=PLACES[name][1] if keyed else ("all",), mechanism=PLACES[name][2]
        )
        for name in names or PLACES
    }


def make_plan(keyed: bool = True, **change: Any) -> PrivacyPlan:
    settings: dict[str, Any] = {
        "private": True,
        "epsilon": 3.0,
        "delta": 1e-5,
        "keyed": keyed,
        "randomness": "secure",
        "queries": queries(keyed=keyed),
    }
    return PrivacyPlan(**settings | change)


@pytest.mark.parametrize("keyed", [True, False])
def test_a_plan_survives_its_json_text(keyed: bool) -> None:
    plan = make_plan(keyed)
    again = PrivacyPlan.model_validate_json(plan.model_dump_json())
    assert again == plan
    assert again.total_epsilon() == plan.total_epsilon()
    assert again.events_of(plan.splits[0]) == plan.events_of(plan.splits[0])


def test_a_plan_without_privacy_survives_its_json_text() -> None:
    plan = make_plan(private=False, queries={})
    assert PrivacyPlan.model_validate_json(plan.model_dump_json()) == plan


def test_a_record_pays_exactly_for_the_queries_of_its_split() -> None:
    plan = make_plan()
    assert plan.splits == ("train", "eval")
    assert set(plan.queries_for("train")) == {"labels", "columns", "features", "training"}
    assert set(plan.queries_for("eval")) == {"labels", "columns", "evaluation"}
    for split in plan.splits:
        by_hand = [query.events for name, query in plan.queries.items() if split in PLACES[name][1]]
        assert plan.epsilon_of(split) == epsilon(by_hand, 1e-5)
    assert plan.total_epsilon() == max(plan.epsilon_of("train"), plan.epsilon_of("eval"))


def test_without_a_key_a_record_pays_for_everything() -> None:
    plan = make_plan(keyed=False)
    assert plan.splits == ("all",)
    assert set(plan.queries_for("all")) == set(PLACES)
    everything = [query.events for query in plan.queries.values()]
    assert plan.total_epsilon() == epsilon(everything, 1e-5) > make_plan().total_epsilon()


def test_a_query_counts_all_its_planned_releases() -> None:
    data = json.loads(make_plan().model_dump_json())["queries"]["training"]["mechanism"]
    assert (data["num_rounds"], data["local_steps"]) == (10, 3)
    event = make_plan().queries["training"].events
    assert event.count * event.event.count == 30
    assert make_plan().queries["columns"].events.event.count == 5


def replace(name: str, **change: Any) -> dict[str, Query]:
    return queries() | {name: Query(**(queries()[name].model_dump() | change))}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        # Training reads training records, whatever the plan would like to charge.
        (replace("training", splits=("eval",)), "Expected training"),
        (replace("training", splits=()), "Expected training"),
        (replace("labels", splits=("train",)), "Expected labels"),
        (replace("evaluation", splits=("train", "eval")), "Expected evaluation"),
        (replace("training", step="statistics"), "Expected training"),
        (replace("training", mechanism=COUNTS), "Expected training"),
        (replace("features", mechanism=SGD), "Expected features"),
        # A step's answer holds all its queries: one that the plan leaves out would be free.
        (queries("columns", "training", "evaluation"), "labels"),
        (queries("labels", "training", "evaluation"), "columns"),
        ({}, "for every query"),
        (queries() | {"lables": queries()["labels"]}, "Did you mean labels"),
    ],
)
def test_a_plan_that_charges_otherwise_than_clients_read_is_refused(
    wrong: dict[str, Query], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        make_plan(queries=wrong)


def test_a_keyed_query_does_not_fit_a_plan_without_a_key() -> None:
    with pytest.raises(ValidationError, match="splits"):
        make_plan(keyed=False, queries=queries(keyed=True))


def test_a_plan_without_privacy_has_no_queries() -> None:
    with pytest.raises(ValidationError, match="without privacy"):
        make_plan(private=False)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"unit": "client"},
        {"neighboring_relation": "replace_one"},
        {"epsilon": 0},
        {"epsilon": float("inf")},
        {"delta": 1.0},
        {"seed": 7},
        {"randomness": "fast"},
    ],
)
def test_unknown_or_unsound_settings_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PrivacyPlan.model_validate(make_plan().model_dump() | change)


@pytest.mark.parametrize("number", [0.0, -1.0, float("nan"), float("inf")])
def test_mechanisms_refuse_noise_that_is_no_positive_number(number: float) -> None:
    with pytest.raises(ValidationError):
        NoisyHistograms(noise_stddev=number, num_histograms=1)
    with pytest.raises(ValidationError):
        DpSgd.model_validate(SGD.model_dump() | {"noise_multiplier": number})
    with pytest.raises(ValidationError):
        DpSgd.model_validate(SGD.model_dump() | {"clipping_norm": number})
    with pytest.raises(ValidationError):
        DpSgd.model_validate(SGD.model_dump() | {"sampling_probability": number})


def test_a_plan_is_frozen() -> None:
    plan = make_plan()
    with pytest.raises(ValidationError):
        plan.epsilon = 1.0
    with pytest.raises(ValidationError):
        plan.queries["training"].mechanism = COUNTS
