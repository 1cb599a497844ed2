"""Every remedy that a refusal names is admitted by a real ledger, and is the largest that is."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fedpipe.config import Config, parse_config
from fedpipe.errors import BudgetError
from fedpipe.ledger import Block, BlockPolicy, Ledger, policy_for_runs
from fedpipe.privacy import PrivacyPlan
from server.planning import make_plan
from server.remedies import _KNOBS, Remedy, _turned, remedies, ways_out, with_epsilon
from server.room import Room, cost

SPANS = ("2026-01", "2026-02", "2026-03")
SCHEMA: dict[str, Any] = {
    "label": {"name": "ill", "classes": {"no": [], "yes": []}},
    "key": "record_id",
    "columns": {"age": {"type": "numeric", "minimum": 0, "maximum": 100}},
}
TIME = {"column": "day", "window": "month"}
TRAINING = {"num_rounds": 12, "local_steps": 2, "sampling_probability": 0.25}


def config(*, dated: bool = True, **changes: Any) -> Config:
    values: dict[str, Any] = {
        "name": "small",
        "schema": SCHEMA | ({"time": TIME} if dated else {}),
        "training": TRAINING,
        "privacy": {"epsilon": 3.0},
    }
    spans = {"spans": {"names": list(SPANS)}} if dated else {}
    return parse_config(values | spans | changes, source="test")


def reserve(path: Path, run_id: str, wanted: Config, policy: BlockPolicy, client: str = "ada") -> None:
    plan = make_plan(wanted)
    blocks = [Block(client=client, span=span, split=s) for span in wanted.run_spans for s in plan.splits]
    with Ledger(path) as ledger:
        ledger.reserve(
            run_id=run_id,
            client=client,
            terms="{}",
            terms_digest=run_id,
            plan=plan,
            blocks=blocks,
            policy=policy,
        )


def admits(path: Path, run_id: str, wanted: Config, policy: BlockPolicy, client: str = "ada") -> bool:
    try:
        reserve(path, run_id, wanted, policy, client)
    except BudgetError:
        return False
    with Ledger(path) as ledger:
        ledger.close(run_id, client)  # a trial: nothing was released
    return True


def refused(path: Path, wanted: Config, policy: BlockPolicy) -> BudgetError:
    with pytest.raises(BudgetError) as caught:
        reserve(path, "refused", wanted, policy)
    return caught.value


def found(wanted: Config, error: BudgetError) -> list[Remedy]:
    return remedies(wanted, Room.of_refusal(error.shortfalls, make_plan(wanted), None))


def one_larger(remedy: Remedy, asked: Config) -> Config | None:
    """The same remedy with its bound one step larger, if it has one."""
    name, _, value = remedy.settings[0].partition("=")
    if name == "privacy.epsilon":
        return with_epsilon(asked, min(float(value) + 10 ** (math.floor(math.log10(float(value))) - 1), 3.0))
    knob = next((knob for knob in _KNOBS if name == f"training.{knob.name}"), None)
    if knob is None:
        return None
    values = list(knob.values(asked.training))
    place = values.index(getattr(remedy.config.training, knob.name)) + 1
    return _turned(asked, make_plan(asked), knob, values[place]) if place < len(values) else None


@pytest.mark.parametrize(("runs", "dated"), [(1.3, True), (1.8, False)])
def test_every_remedy_is_admitted_and_a_larger_epsilon_is_not(
    tmp_path: Path, runs: float, dated: bool
) -> None:
    path, wanted = tmp_path / "ledger.db", config(dated=dated)
    policy = _policy(make_plan(wanted), runs)
    first = config(spans={"names": [SPANS[0]]}) if dated else wanted
    reserve(path, "first", first, policy)
    error = refused(path, wanted, policy)
    made = found(wanted, error)
    assert len(made) == 3
    assert [remedy.kept for remedy in made] == sorted((remedy.kept for remedy in made), reverse=True)
    for number, remedy in enumerate(made):
        assert 0 < remedy.kept < 1
        assert admits(path, f"remedy-{number}", remedy.config, policy), remedy.options
        larger = one_larger(remedy, wanted)
        assert larger is None or not admits(path, f"larger-{number}", larger, policy), remedy.options


def _policy(plan: PrivacyPlan, runs: float) -> BlockPolicy:
    """A budget that affords `runs` runs, which need not be whole."""
    two = policy_for_runs(plan, 2)
    dearest = max(cost(plan, split, two.renyi_order) for split in plan.splits)
    return two.model_copy(update={"epsilon": two.epsilon - (2 - runs) * dearest})


def test_turned_settings_keep_the_noise_of_a_step(tmp_path: Path) -> None:
    path, wanted = tmp_path / "ledger.db", config(dated=False)
    policy = _policy(make_plan(wanted), 1.6)
    reserve(path, "first", wanted, policy)
    error, before = refused(path, wanted, policy), make_plan(wanted).queries["training"].mechanism
    turned = [remedy for remedy in found(wanted, error) if remedy.settings[0].startswith("training.")]
    assert turned
    for remedy in turned:
        after = make_plan(remedy.config).queries["training"].mechanism
        assert after.noise_multiplier == pytest.approx(before.noise_multiplier, rel=0.02)  # type: ignore[union-attr]
        assert (
            f"training.{_name(remedy)}={getattr(remedy.config.training, _name(remedy)):g}" in remedy.settings
        )


def _name(remedy: Remedy) -> str:
    return remedy.settings[0].partition("=")[0].removeprefix("training.")


def test_what_is_printed_can_be_typed_and_means_the_settings_that_were_checked(tmp_path: Path) -> None:
    from fedpipe.config import load_config

    path, wanted = tmp_path / "ledger.db", config()
    file = tmp_path / "small.yaml"
    file.write_text(wanted.model_dump_json(by_alias=True))
    policy = _policy(make_plan(wanted), 1.5)
    reserve(path, "first", config(spans={"names": [SPANS[0]]}), policy)
    error = refused(path, wanted, policy)
    printed = ways_out(wanted, error.shortfalls)
    options = re.findall(r"\d\. (--set .*)", printed)
    made = found(wanted, error)
    assert [remedy.options for remedy in made] == options
    for line, remedy in zip(options, made, strict=True):
        settings = [word for word in shlex.split(line) if word != "--set"]
        assert make_plan(load_config(str(file), settings)) == make_plan(remedy.config)
        assert load_config(str(file), settings).run_spans == remedy.config.run_spans


def test_blocks_that_did_not_refuse_admit_every_remedy_whatever_their_order(tmp_path: Path) -> None:
    """A remedy is a promise about them too, although nobody told how much they have left."""
    path, wanted = tmp_path / "ledger.db", config(dated=False)
    plan = make_plan(wanted)
    tight = _policy(plan, 1.5)
    reserve(path, "first", wanted, tight)
    error = refused(path, wanted, tight)
    for order in (2, 8, 64, 512):
        dearest = max(cost(plan, split, order) for split in plan.splits)
        slack = BlockPolicy(epsilon=1.0, delta=1e-5, renyi_order=order)
        exact = slack.model_copy(update={"epsilon": 1.0 + dearest * (1 + 1e-9) - slack.renyi_budget})
        if exact.epsilon <= 0:
            continue
        for number, remedy in enumerate(found(wanted, error)):
            assert admits(path, f"{order}-{number}", remedy.config, exact, client=f"bob-{order}"), (
                remedy.options
            )


def test_spans_that_are_short_can_be_left_out(tmp_path: Path) -> None:
    path, wanted = tmp_path / "ledger.db", config()
    policy = policy_for_runs(make_plan(wanted), 1)
    reserve(path, "first", config(spans={"names": [SPANS[0]]}), policy)
    printed = ways_out(wanted, refused(path, wanted, policy).shortfalls)
    assert """--set 'spans={"names": ["2026-02", "2026-03"]}'""" in printed
    assert "2 of 3 remain" in printed
    assert "the next one is 2026-04" in printed


def test_spans_are_not_offered_for_blocks_that_admitted_only_some_steps(tmp_path: Path) -> None:
    """What a partial claim was admitted for says nothing of a whole run on the same blocks."""
    path, wanted = tmp_path / "ledger.db", config()
    policy = policy_for_runs(make_plan(wanted), 1)
    reserve(path, "first", config(spans={"names": [SPANS[0]]}), policy)
    shortfalls = refused(path, wanted, policy).shortfalls
    partial = Room.of_refusal(shortfalls, make_plan(wanted), ("train", "analyze"))
    assert not [each for each in remedies(wanted, partial) if each.settings[0].startswith("spans")]


@pytest.mark.parametrize("dated", [True, False])
def test_when_nothing_fits_it_says_so_and_what_would(tmp_path: Path, dated: bool) -> None:
    path, wanted = tmp_path / "ledger.db", config(dated=dated)
    policy = policy_for_runs(make_plan(wanted), 1)
    reserve(path, "first", wanted, policy)
    printed = ways_out(wanted, refused(path, wanted, policy).shortfalls)
    assert printed.startswith("Ways out: no setting")
    assert "--set" not in printed
    assert ("the next one is 2026-04" if dated else "one budget for ever") in printed


def test_a_refusal_says_what_was_requested_and_what_it_means(tmp_path: Path) -> None:
    path, wanted = tmp_path / "ledger.db", config()
    policy = _policy(make_plan(wanted), 1.5)
    reserve(path, "first", wanted, policy)
    error = refused(path, wanted, policy)
    [requested, remaining, difference] = _figures(str(error), "Requested", "remaining", "difference")
    assert requested - remaining == pytest.approx(difference, rel=1e-3)
    [over] = _figures(str(error), "would be at epsilon")
    assert over == pytest.approx(policy.epsilon + difference, rel=1e-3)
    assert "and 2 more. Nothing was changed." in str(error)


def _figures(message: str, *names: str) -> Sequence[float]:
    return [float(re.findall(rf"{name}:? ([0-9.e-]+[0-9])", message)[0]) for name in names]
