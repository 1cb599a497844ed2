"""`fedpipe budget plan`: how many retrainings a budget allows, or with which noise it allows so many."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from fedpipe.config import Config
from fedpipe.errors import PrivacyError
from fedpipe.ledger import BlockPolicy, policy_for_budget, policy_for_runs
from fedpipe.ledger.history import BlockHistory
from fedpipe.privacy import DpSgd, PrivacyPlan
from fedpipe.privacy.calibration import MAX_EPSILON
from fedpipe.reports.wording import plural, round_up
from server.planning import make_plan
from server.remedies import largest_epsilon, remedies, with_epsilon
from server.room import Room, cost

ROUNDING = 1 + 1e-9


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RunOption(_Facts):
    """Settings of a run, and the noise that follows from them."""

    settings: tuple[str, ...] = Field(description="What to give to --set; none: as configured.")
    loss: str = Field(description="What it costs against the configured settings, in words.")
    epsilon: float = Field(description="Of one run, over all its steps.")
    delta: float
    num_rounds: int
    local_steps: int
    sampling_probability: float
    noise_multiplier: float
    runs_allowed: int | None = Field(description="By the budget; None: no budget was given.")


class BudgetFacts(_Facts):
    """A lifetime budget."""

    epsilon: float
    delta: float
    renyi_order: int
    renyi_budget: float


class SpanRoom(_Facts):
    """What the blocks of a span still allow."""

    span: str
    num_blocks: int
    runs_left: int = Field(description="Of the configured settings, by the block that allows least.")


class BudgetPlan(_Facts):
    """What a budget allows. Also the form of `fedpipe budget plan --format json`."""

    format: Literal["fedpipe budget plan"] = "fedpipe budget plan"
    version: Literal[1] = 1
    problem: str
    unit: str
    neighboring_relation: str
    runs: int = Field(description="How many runs the same records are to afford.")
    budget: BudgetFacts | None = Field(description="As given; None: what these runs would need is `needed`.")
    needed: BudgetFacts = Field(description="The least lifetime budget that affords `runs` as configured.")
    asked: RunOption
    options: tuple[RunOption, ...] = Field(description="With which settings `runs` fit; best first.")
    spans: tuple[SpanRoom, ...] = Field(description="From a ledger; none without one.")


def make_budget_plan(
    config: Config,
    *,
    num_runs: int | None = None,
    budget_epsilon: float | None = None,
    blocks: Sequence[BlockHistory] = (),
) -> BudgetPlan:
    """Returns what a budget allows: one that is given, or what `blocks` of a ledger have left.

    Args:
      config: a run as it is meant to be.
      num_runs: how many of them the same records are to afford; by default `spans.last`, since each new
        window on so many spans uses a block once more, or one.
      budget_epsilon: a lifetime budget, at the delta of `config`.
      blocks: with what is left of each.

    Raises:
      PrivacyError: privacy is off, no noise can meet the target, or `blocks` admit no run of this kind.
    """
    if not config.privacy.enabled:
        raise PrivacyError("Expected privacy.enabled=true for a budget, found false: it has no cost to plan.")
    if budget_epsilon is not None and not 0 < budget_epsilon < math.inf:
        raise PrivacyError(f"Expected a lifetime budget of epsilon > 0, found {budget_epsilon:g}.")
    plan = make_plan(config)
    _check_kind(plan, blocks)
    runs = num_runs or config.spans.last or 1
    policy = None if budget_epsilon is None else policy_for_budget(budget_epsilon, plan.delta)
    return BudgetPlan(
        problem=config.name,
        unit=plan.unit,
        neighboring_relation=plan.neighboring_relation,
        runs=runs,
        budget=None if policy is None else _budget(policy),
        needed=_budget(policy_for_runs(plan, runs)),
        asked=_option(config, (), "as configured", policy),
        options=tuple(_options(config, runs, policy, blocks)),
        spans=tuple(_span_rooms(plan, blocks)),
    )


def _check_kind(plan: PrivacyPlan, blocks: Sequence[BlockHistory]) -> None:
    """Raises PrivacyError for blocks that refuse the plan whatever it costs, as admission would."""
    for each in blocks:
        if each.block.split not in plan.splits or each.unit != plan.unit:
            raise PrivacyError(
                f"Expected a run by {each.unit} that knows the split {each.block.split}, as block "
                f"{each.block} does, found one by {plan.unit} with {', '.join(plan.splits)}: give the "
                "configuration that these records are used with."
            )


def plan_lines(plan: BudgetPlan) -> Iterator[str]:
    """Returns the plan in words, for a terminal."""
    asked = plan.asked
    yield (
        f"One run of {plan.problem}: epsilon {round_up(asked.epsilon)} at delta {asked.delta:g} for each "
        f"{plan.unit}; {plural(asked.num_rounds, 'round')}, noise multiplier {asked.noise_multiplier:.3g}, "
        f"sampling probability {asked.sampling_probability:g}."
    )
    needs = "needs" if plan.runs == 1 else "need"
    yield (
        f"{plural(plan.runs, 'run')} on the same records {needs} a lifetime budget of epsilon "
        f"{round_up(plan.needed.epsilon)}."
    )
    if plan.budget is not None and asked.runs_allowed is not None:
        yield f"A lifetime budget of epsilon {plan.budget.epsilon:g} allows {_so_many(asked.runs_allowed)}."
    for (left, _), rooms in groupby(plan.spans, key=lambda room: (room.runs_left, room.num_blocks)):
        alike = list(rooms)
        ends = alike[0].span if len(alike) == 1 else f"{alike[0].span} to {alike[-1].span}"
        yield f"  {ends}: {_so_many(left)}, on {plural(sum(room.num_blocks for room in alike), 'block')}"
    yield from _option_lines(plan)


def _so_many(runs: int) -> str:
    return f"{plural(runs, 'run')} like this one" if runs else "no run like this one"


def _option_lines(plan: BudgetPlan) -> Iterator[str]:
    runs = plural(plan.runs, "more run" if plan.spans else "run")
    if plan.options:
        yield f"For {runs}:"
    for option in plan.options:
        yield "  " + " ".join(f"--set {shlex.quote(setting)}" for setting in option.settings)
        yield f"    {option.loss}; noise multiplier {option.noise_multiplier:.3g}"
    if not plan.options and (plan.budget is not None or plan.spans):
        yield f"No other setting is better for {runs}."


def _options(
    config: Config, runs: int, policy: BlockPolicy | None, blocks: Sequence[BlockHistory]
) -> Iterator[RunOption]:
    if policy is None and not blocks:
        return
    room = Room.of_blocks(blocks, num_runs=runs) if blocks else _whole(make_plan(config), policy, runs)
    if room.use(make_plan(config)) > 1:
        for remedy in remedies(config, room):
            yield _option(remedy.config, remedy.settings, remedy.loss, policy)
        return
    epsilon = largest_epsilon(config, room, most=MAX_EPSILON)
    if epsilon is not None and epsilon > config.privacy.epsilon:
        words = f"less noise: epsilon {epsilon:g} a run instead of {config.privacy.epsilon:g}"
        yield _option(with_epsilon(config, epsilon), (f"privacy.epsilon={epsilon:g}",), words, policy)


def _whole(plan: PrivacyPlan, policy: BlockPolicy | None, runs: int) -> Room:
    if policy is None:
        return Room(left={}, num_runs=runs)
    return Room(
        left={("any", split, policy.renyi_order): policy.renyi_budget for split in plan.splits}, num_runs=runs
    )


def _option(config: Config, settings: tuple[str, ...], loss: str, policy: BlockPolicy | None) -> RunOption:
    plan, training = make_plan(config), config.training
    mechanism = plan.queries["training"].mechanism
    if not isinstance(mechanism, DpSgd):
        raise PrivacyError(f"Expected DP-SGD for training, found {mechanism.kind}.")
    return RunOption(
        settings=settings,
        loss=loss,
        epsilon=plan.total_epsilon(),
        delta=plan.delta,
        num_rounds=training.num_rounds,
        local_steps=training.local_steps,
        sampling_probability=training.sampling_probability,
        noise_multiplier=mechanism.noise_multiplier,
        runs_allowed=None if policy is None else _runs_allowed(plan, policy),
    )


def _runs_allowed(plan: PrivacyPlan, policy: BlockPolicy) -> int:
    dearest = max(cost(plan, split, policy.renyi_order) for split in plan.splits)
    return int(policy.renyi_budget / dearest * ROUNDING)


def _budget(policy: BlockPolicy) -> BudgetFacts:
    return BudgetFacts(
        epsilon=policy.epsilon,
        delta=policy.delta,
        renyi_order=policy.renyi_order,
        renyi_budget=policy.renyi_budget,
    )


def _span_rooms(plan: PrivacyPlan, blocks: Sequence[BlockHistory]) -> Iterator[SpanRoom]:
    spans: dict[str, list[int]] = {}
    for each in blocks:
        dearest = cost(plan, each.block.split, each.policy.renyi_order)
        if dearest:
            spans.setdefault(each.block.span, []).append(int(each.left / dearest * ROUNDING))
    for span in sorted(spans):
        yield SpanRoom(span=span, num_blocks=len(spans[span]), runs_left=min(spans[span]))
