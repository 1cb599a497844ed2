from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedpipe.config import Config, parse_config
from fedpipe.errors import BudgetError, PrivacyError
from fedpipe.ledger import Block, Ledger, policy_for_budget, policy_for_runs
from fedpipe.ledger.history_reading import read_history
from server.budget_plan import BudgetPlan, make_budget_plan, plan_lines
from server.planning import make_plan


def config(**changes: Any) -> Config:
    values: dict[str, Any] = {
        "name": "small",
        "schema": {
            "label": {"name": "ill", "classes": {"no": [], "yes": []}},
            "key": "record_id",
            "columns": {"age": {"type": "numeric", "minimum": 0, "maximum": 100}},
        },
        "training": {"num_rounds": 4, "sampling_probability": 0.25},
        "privacy": {"epsilon": 2.0},
    }
    return parse_config(values | changes, source="test")


def num_admitted(path: Path, wanted: Config, budget: float, *, most: int) -> int:
    plan = make_plan(wanted)
    policy = policy_for_budget(budget, plan.delta)
    blocks = [Block(client="small.ada", span="undated", split=split) for split in plan.splits]
    with Ledger(path) as ledger, suppress(BudgetError):
        for number in range(most):
            ledger.reserve(
                run_id=f"r{number}",
                client="small.ada",
                terms="{}",
                terms_digest="d",
                plan=plan,
                blocks=blocks,
                policy=policy,
            )
    return len(read_history(path).runs)


def test_so_many_runs_are_allowed_as_a_ledger_admits(tmp_path: Path) -> None:
    plan = make_budget_plan(config(), budget_epsilon=6.0)
    assert plan.asked.runs_allowed is not None
    assert plan.asked.runs_allowed > 1
    assert num_admitted(tmp_path / "l.db", config(), 6.0, most=40) == plan.asked.runs_allowed


def test_the_settings_for_more_runs_allow_them_and_no_more_than_fit(tmp_path: Path) -> None:
    plan = make_budget_plan(config(), budget_epsilon=6.0, num_runs=12)
    assert len(plan.options) == 3
    for number, option in enumerate(plan.options):
        assert option.runs_allowed is not None
        assert option.runs_allowed >= 12
        training = {key: getattr(option, key) for key in ("num_rounds", "sampling_probability")}
        epsilon = next(float(each.split("=")[1]) for each in option.settings if "epsilon" in each)
        changed = config(training=training, privacy={"epsilon": epsilon})
        assert num_admitted(tmp_path / f"{number}.db", changed, 6.0, most=12) == 12


def test_what_runs_need_is_the_budget_that_just_affords_them() -> None:
    plan = make_budget_plan(config(), num_runs=3)
    assert plan.needed.epsilon == policy_for_runs(make_plan(config()), 3).epsilon
    assert (plan.budget, plan.options, plan.spans) == (None, (), ())


def test_a_window_of_spans_is_so_many_runs() -> None:
    schema = {**config().data_schema.model_dump(), "time": {"column": "day", "window": "month"}}
    assert make_budget_plan(config(schema=schema, spans={"last": 5})).runs == 5


def test_a_budget_with_room_to_spare_allows_less_noise() -> None:
    plan = make_budget_plan(config(), budget_epsilon=20.0)
    [option] = plan.options
    assert option.epsilon > plan.asked.epsilon
    assert option.noise_multiplier < plan.asked.noise_multiplier
    assert "less noise" in option.loss


def test_a_ledger_says_what_its_blocks_still_allow(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    allowed = make_budget_plan(config(), budget_epsilon=6.0).asked.runs_allowed
    assert num_admitted(path, config(), 6.0, most=2) == 2
    plan = make_budget_plan(config(), blocks=read_history(path).blocks)
    assert allowed is not None
    assert [(each.span, each.num_blocks, each.runs_left) for each in plan.spans] == [
        ("undated", 2, allowed - 2)
    ]


def test_blocks_that_refuse_the_run_at_any_cost_are_named(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    num_admitted(path, config(), 6.0, most=1)
    blocks = read_history(path).blocks
    for changed in ({"block": replace(blocks[0].block, split="all")}, {"unit": "user"}):
        with pytest.raises(PrivacyError, match="Expected a run by"):
            make_budget_plan(config(), blocks=[replace(blocks[0], **changed)])  # type: ignore[arg-type]


def test_the_plan_is_told_in_words_and_read_back_from_json() -> None:
    plan = make_budget_plan(config(), budget_epsilon=6.0, num_runs=12)
    lines = "\n".join(plan_lines(plan))
    assert "12 runs on the same records need a lifetime budget of epsilon" in lines
    assert "  --set " in lines
    assert BudgetPlan.model_validate_json(plan.model_dump_json()) == plan


@pytest.mark.parametrize(
    ("changes", "budget"), [({"privacy": {"enabled": False}}, 3.0), ({}, -1.0), ({}, float("nan"))]
)
def test_what_has_no_budget_is_refused_in_words(changes: dict[str, Any], budget: float) -> None:
    with pytest.raises(PrivacyError, match="Expected"):
        make_budget_plan(config(**changes), budget_epsilon=budget)
