from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from dp_accounting import dp_event
from rich.console import Console

from fedpipe.ledger import Block, BlockPolicy, epsilon_over_blocks
from fedpipe.ledger.history import (
    BlockHistory,
    DayOfReleases,
    History,
    RunCharge,
    RunHistory,
    StepCharge,
)
from fedpipe.privacy import epsilon, event_to_json
from fedpipe.reports import running_epsilon
from fedpipe.reports.budget_facts import BudgetReport
from fedpipe.reports.budget_page import render_page
from fedpipe.reports.budget_report import ModelOrigin, make_report
from fedpipe.reports.budget_text import print_report, summary_lines
from fedpipe.reports.wording import round_up

POLICY = BlockPolicy(epsilon=10.0, delta=1e-5, renyi_order=4)
EVENT = dp_event.GaussianDpEvent(2.0)
HOSTILE = "</script><img src=x onerror=alert(1)>"


def block(client: str, span: str, *charges: RunCharge) -> BlockHistory:
    return BlockHistory(
        ledger="ledger",
        block=Block(client=client, span=span, split="train"),
        policy=POLICY,
        unit="record",
        neighboring_relation="add_or_remove_one",
        budget=8.0,
        charges=charges,
        num_releases=len(charges),
    )


def spent(run_id: str, divergence: float) -> RunCharge:
    return RunCharge(run_id=run_id, spent=divergence, reserved=0.0)


def run(number: int, **change: object) -> RunHistory:
    made = RunHistory(
        run_id=f"r{number}",
        began_at=f"2026-01-0{number}T00:00:00+00:00",
        last_release_at=f"2026-01-0{number}T01:00:00+00:00",
        num_releases=3,
        clients=("ada", "bob"),
        is_open=False,
        protection="private",
    )
    return replace(made, **change)  # type: ignore[arg-type]


def history(*blocks: BlockHistory, runs: Sequence[RunHistory] = ()) -> History:
    return History(
        ledger="ledger",
        blocks=blocks,
        runs=tuple(runs) or tuple(run(number) for number in range(1, 6)),
        steps=(StepCharge(run_id="r1", step="train", span="w1", shares=0.5),),
        days=(
            DayOfReleases(date="2026-01-01", step="train", num_releases=3),
            DayOfReleases(date="2026-01-02", step="train", num_releases=3),
        ),
    )


def events(_ledger: str, blocks: Sequence[Block]) -> dict[Block, Mapping[str, int]]:
    return {each: {json.dumps(event_to_json(EVENT)): 3} for each in blocks}


def report(*blocks: BlockHistory, runs: Sequence[RunHistory] = (), **change: object) -> BudgetReport:
    return make_report([history(*blocks, runs=runs)], events, made_at="2026-01-03", **change)  # type: ignore[arg-type]


def test_spent_reserved_and_left_make_up_the_budget() -> None:
    made = report(block("ada", "w1", spent("r1", 2.0), RunCharge(run_id="r2", spent=1.0, reserved=1.0)))
    [facts] = made.blocks
    assert (facts.renyi_spent, facts.renyi_reserved, facts.renyi_left) == (3.0, 1.0, 4.0)
    assert (facts.share_spent, facts.share_reserved, facts.share_left) == (0.375, 0.125, 0.5)


def test_the_running_epsilon_is_that_of_all_events_together_and_rounds_up() -> None:
    made = report(block("ada", "w1", spent("r1", 2.0)))
    exact = epsilon([dp_event.SelfComposedDpEvent(EVENT, 3)], POLICY.delta)
    assert made.blocks[0].running_epsilon is not None
    assert exact <= made.blocks[0].running_epsilon <= 1.01 * exact
    [curve] = made.curves
    assert [point.delta for point in curve.points] == [1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9]
    assert [point.epsilon for point in curve.points] == sorted(point.epsilon for point in curve.points)


def test_a_running_epsilon_that_is_not_computed_is_none_and_not_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_epsilon, "NUM_READ", 1)
    made = report(
        block("ada", "w1", spent("r1", 4.0)), block("bob", "w1", spent("r1", 2.0)), block("cy", "w1")
    )
    found = {each.client: each.running_epsilon for each in made.blocks}
    assert found["ada"] is not None
    assert found["ada"] > 0
    assert (found["bob"], found["cy"]) == (None, 0.0)


def test_a_gap_is_told_and_counts_as_spent_at_an_epsilon_that_nobody_knows() -> None:
    made = report(
        block("ada", "w1", spent("r1", 2.0)), replace(block("ada", "w2", spent("r1", 2.0)), in_gap=True)
    )
    lost, known = made.blocks
    assert (lost.span, lost.in_gap, lost.share_spent, lost.running_epsilon) == ("w2", True, 1.0, None)
    assert lost.retrainings_left == 0
    assert not known.in_gap
    assert made.num_in_gap == 1
    assert any(line.startswith("GAP: ") and "1 block " in line for line in summary_lines(made))
    assert "restored from an older copy" in render_page(made)


def test_what_a_user_pays_over_all_her_spans_is_the_worst_sum_of_budgets() -> None:
    blocks = [replace(block("ada", span), unit="user") for span in ("w1", "w2")]
    made = report(*blocks, replace(block("bob", "w1"), unit="user"))
    epsilon = round_up(epsilon_over_blocks(POLICY, 2))
    assert made.notes[-1].startswith(
        f"A user with records in all 2 spans of a client pays epsilon {epsilon} "
    )
    assert not any("user" in note for note in report(block("ada", "w1")).notes)


def test_forecasts_take_the_pace_of_the_last_runs() -> None:
    made = report(
        block("ada", "w1", *(spent(f"r{number}", 2.0) for number in range(1, 5))),
        block("ada", "w2", spent("r1", 2.0)),
        block("bob", "w3", spent("r1", 1.0), spent("r2", 3.0)),
    )
    assert [(each.name, each.retrainings_left) for each in made.spans] == [("w1", 0), ("w2", 3), ("w3", 2)]
    assert made.num_exhausted == 1
    assert made.forecasts[0].startswith("The blocks of w1 are exhausted")
    assert made.forecasts[1].endswith("the blocks of w2 last 3 more retrainings.")


def test_only_the_last_four_runs_set_the_pace() -> None:
    early, late = [spent("r1", 2.0)], [spent(f"r{number}", 0.5) for number in range(2, 6)]
    [facts] = report(block("ada", "w1", *early, *late)).blocks
    assert facts.retrainings_left == 8  # 4 of 8 are left


def test_a_block_goes_into_the_versions_of_its_runs_cached_ones_too() -> None:
    origins = [
        ModelOrigin(name="m:1", run_id="r1", epsilon=8.0, delta=1e-5, sources=frozenset({("r1", "train")})),
        ModelOrigin(
            name="m:2",
            run_id="r2",
            epsilon=8.0,
            delta=1e-5,
            sources=frozenset({("r1", "statistics"), ("r2", "train")}),
        ),
    ]
    made = report(block("ada", "w1", spent("r1", 2.0)), block("ada", "w2", spent("r2", 2.0)), origins=origins)
    assert {each.span: each.models for each in made.blocks} == {"w1": ("m:1", "m:2"), "w2": ("m:2",)}
    assert {model.model: model.blocks for model in made.models} == {
        "m:1": ("ada/w1/train",),
        "m:2": ("ada/w1/train", "ada/w2/train"),
    }
    assert [each.models for each in made.runs] == [("m:1", "m:2"), ("m:2",)]


def test_runs_outside_any_budget_are_called_out() -> None:
    runs = [run(1), run(2, protection="NOT PRIVATE")]
    made = report(block("ada", "w1", spent("r1", 2.0)), runs=runs)
    assert [each.protection for each in made.runs] == ["private", "NOT PRIVATE"]
    assert "OUTSIDE ANY BUDGET: r2" in text(made)
    assert "outside any budget" in render_page(made)


def test_several_ledgers_are_joined_by_run() -> None:
    ada = history(block("ada", "w1", spent("r1", 2.0)), runs=[run(1, clients=("ada",))])
    bob = replace(history(block("bob", "w1", spent("r1", 1.0)), runs=[run(1, clients=("bob",))]), ledger="b")
    made = make_report([ada, bob], events, made_at="2026-01-03")
    assert [(each.num_clients, each.num_releases, each.num_blocks) for each in made.runs] == [(2, 6, 2)]
    assert made.num_blocks == 2


def test_the_json_form_has_exactly_the_documented_keys() -> None:
    data = json.loads(report(block("ada", "w1", spent("r1", 2.0))).model_dump_json())
    assert (data["format"], data["version"]) == ("fedpipe budget report", 1)
    assert sorted(data) == [
        "blocks", "client", "clients", "curves", "days", "forecasts", "format", "ledgers", "made_at",
        "models", "neighboring_relations", "notes", "num_blocks", "num_clients", "num_exhausted",
        "num_in_gap", "num_releases", "num_runs", "num_spans", "paths", "runs", "spans", "steps", "units",
        "version",
    ]  # fmt: skip
    assert BudgetReport.model_validate(data).blocks[0].renyi_spent == 2.0


def text(made: BudgetReport) -> str:
    stream = io.StringIO()
    print_report(made, Console(file=stream, width=80))
    return stream.getvalue()


def test_the_text_form_fits_into_80_columns_and_begins_with_a_summary() -> None:
    long = "loans." + "a-client-with-a-long-name" * 3
    shown = text(report(block(long, "w1", spent("r1", 2.0)), block("loans.bob", "w1", spent("r1", 1.0))))
    assert shown.startswith("1 run with 3 releases")
    assert max(map(len, shown.splitlines())) <= 80
    assert "running" in shown
    assert "no guarantee" in shown


def test_an_empty_ledger_is_said_to_be_empty() -> None:
    made = make_report([], events, made_at="2026-01-03")
    assert text(made).startswith("No budgets yet")
    assert "No budgets yet" in render_page(made)


def test_the_page_asks_for_nothing_and_escapes_what_clients_are_called() -> None:
    page = render_page(
        report(block("x." + HOSTILE.replace("/", "|"), "w1", spent("r1", 2.0)), block("x.b", "w1"))
    )
    own = page.replace(re.findall(r"<script>.*?</script>", page, re.DOTALL)[0], "")  # plotly itself
    assert "<img" not in own
    assert not re.search(r"(src|href)=\"(?!#|data:)", own)
    assert "default-src 'none'" in page


def test_the_page_says_what_is_promised_and_explains_its_words() -> None:
    page = render_page(report(block("ada", "w1", spent("r1", 2.0)), block("bob", "w1")))
    for words in (
        "adding or removing one record",
        "no guarantee",
        "each is trusted",
        "several clients",
        "Renyi",
    ):
        assert words in page
    for word in ("Client", "Span", "Block", "Release", "Exhausted"):
        assert f"<dt>{word}" in page


def test_a_large_report_is_aggregated() -> None:
    blocks = [block(f"c{number}", f"w{number % 7}", spent("r1", 1.0)) for number in range(3000)]
    page = render_page(report(*blocks))
    assert page.count("<tr>") < 200
    assert "plot-histogram" in page
    assert "plot-map" not in page
