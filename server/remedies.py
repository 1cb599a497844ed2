"""What to do about a budget that refuses: the nearest settings that fit, each checked before it is named."""

from __future__ import annotations

import json
import math
import shlex
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from fedpipe.config import Config, SpanSettings
from fedpipe.data.spans import next_span
from fedpipe.errors import PrivacyError, Shortfall
from fedpipe.learning import TrainingSettings
from fedpipe.privacy import NoisyHistograms, PrivacyPlan, Query
from fedpipe.privacy.accounting import epsilon_at
from fedpipe.privacy.calibration import gaussian_mu
from server.planning import make_plan
from server.room import Room

LEAST_EPSILON = 0.01
MOST_REMEDIES = 3
_INTERVAL, _CARE = 1e-3, 0.998  # of rough epsilons, which are bounds: a little less keeps the noise
_DIGITS = range(10, 100)  # of a number that people are asked to type


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """Settings with which a run fits.

    Attributes:
      settings: what to give to --set.
      loss: what that costs, in words.
      kept: the part of what was asked for that is left, in (0, 1); the nearest remedy keeps most.
      config: what the settings make of the refused configuration.
    """

    settings: tuple[str, ...]
    loss: str
    kept: float
    config: Config

    @property
    def options(self) -> str:
        """The settings as the command line takes them."""
        return " ".join(f"--set {shlex.quote(setting)}" for setting in self.settings)


def ways_out(config: Config, shortfalls: Sequence[Shortfall], steps: Collection[str] | None = None) -> str:
    """Returns, line by line, what a person can do about a refusal of `steps` of the run of `config`."""
    found = remedies(config, Room.of_refusal(shortfalls, make_plan(config), steps)) if shortfalls else []
    return "\n".join((*_listed(found), *_otherwise(config, fits=bool(found))))


def remedies(config: Config, room: Room) -> list[Remedy]:
    """Returns the settings nearest to those of `config` that fit `room`, the nearest first."""
    found = [remedy for make in (_spans, _epsilon, _training) for remedy in make(config, room)]
    return sorted(found, key=lambda remedy: -remedy.kept)[:MOST_REMEDIES]


def largest_epsilon(config: Config, room: Room, *, most: float) -> float | None:
    """Returns, in two digits, the largest privacy.epsilon up to `most` that fits; None if none does."""
    values = _two_digits(LEAST_EPSILON, most)

    def use(epsilon: float) -> float:
        return _use(with_epsilon(config, epsilon), room)

    if not room.has_any:
        return None
    guess = _power_guess(config.privacy.epsilon, use, most)
    return _largest(values, use, start=max(bisect_right(values, guess) - 1, 0))


def _power_guess(asked: float, use: Callable[[float], float], most: float) -> float:
    """Returns about the epsilon whose use is 1: use grows about as a power, of 2 where epsilon is small."""
    first = use(asked)
    guess = min(max(asked * float(first ** (-1 / 1.5)), LEAST_EPSILON), most)
    second = use(guess)
    if second == first or guess == asked:
        return guess
    power = math.log(second / first) / math.log(guess / asked)
    return min(max(guess * float(second ** (-1 / max(power, 0.5))), LEAST_EPSILON), most)


def with_epsilon(config: Config, epsilon: float) -> Config:
    """Returns `config` with another privacy.epsilon."""
    return config.model_copy(update={"privacy": config.privacy.model_copy(update={"epsilon": epsilon})})


def _listed(found: Sequence[Remedy]) -> Iterator[str]:
    if not found:
        yield f"Ways out: no setting with privacy.epsilon of {LEAST_EPSILON:g} or more fits what is left."
        return
    yield "Ways out: each of these settings fits what is left; the nearest comes first."
    for number, remedy in enumerate(found, start=1):
        yield f"  {number}. {remedy.options}"
        yield f"     {remedy.loss}"


def _otherwise(config: Config, *, fits: bool) -> Iterator[str]:
    time = config.data_schema.time
    if time is not None and config.spans.names:
        new = next_span(max(config.spans.names))
        yield f"Spans after these have whole budgets of their own: the next one is {new}."
    elif not fits:
        yield "Records without dates have one budget for ever: only other records can be asked."
    yield "An earlier run's settings are answered from its results, at no cost."


def _epsilon(config: Config, room: Room) -> Iterator[Remedy]:
    asked = config.privacy.epsilon
    epsilon = largest_epsilon(config, room, most=asked)
    if epsilon is None or epsilon >= asked:
        return
    yield Remedy(
        settings=(f"privacy.epsilon={epsilon:g}",),
        loss=f"more noise in every step: the run may cost epsilon {epsilon:g} instead of {asked:g}",
        kept=epsilon / asked,
        config=with_epsilon(config, epsilon),
    )


def _spans(config: Config, room: Room) -> Iterator[Remedy]:
    asked = config.spans.names or ()
    kept = [span for span in asked if span not in room.spans]
    if not kept or len(kept) == len(asked) or room.without(room.spans).use(make_plan(config)) > 1:
        return
    yield Remedy(
        settings=(f"spans={json.dumps({'names': kept})}",),
        loss=f"leaves out the spans that are short: {len(kept)} of {len(asked)} remain",
        kept=len(kept) / len(asked),
        config=config.model_copy(update={"spans": SpanSettings(last=None, until=None, names=tuple(kept))}),
    )


@dataclass(frozen=True, kw_only=True)
class _Knob:
    """A setting of training that a run can have less of, while the noise of a step stays what it is."""

    name: str
    loss: str
    values: Callable[[TrainingSettings], Sequence[float]]


_KNOBS = (
    _Knob(
        name="num_rounds",
        loss="fewer rounds with the same noise in each: {new:g} of {old:g}",
        # A schedule needs a round after its warm-up.
        values=lambda training: range(training.warmup_rounds + 1, training.num_rounds),
    ),
    _Knob(
        name="sampling_probability",
        loss="smaller batches with the same noise: a record is drawn with probability {new:g}, not {old:g}",
        values=lambda training: _two_digits(
            training.sampling_probability / 1000, training.sampling_probability
        )[:-1],
    ),
    _Knob(
        name="local_steps",
        loss="fewer local steps with the same noise in each: {new:g} of {old:g}",
        values=lambda training: range(1, training.local_steps),
    ),
)


def _training(config: Config, room: Room) -> Iterator[Remedy]:
    plan = make_plan(config)
    for knob in _KNOBS if room.has_any else ():
        values = knob.values(config.training)
        found = _largest_turn(config, plan, knob, values, room)
        if found is None:
            continue
        old, changed = getattr(config.training, knob.name), _turned(config, plan, knob, found)
        yield Remedy(
            settings=(f"training.{knob.name}={found:g}", f"privacy.epsilon={changed.privacy.epsilon:g}"),
            loss=knob.loss.format(new=found, old=old),
            kept=found / old,
            config=changed,
        )


def _largest_turn(
    config: Config, plan: PrivacyPlan, knob: _Knob, values: Sequence[float], room: Room
) -> float | None:
    """Returns the largest of `values` that fits: found without calibration, then checked with it."""
    rough = _largest(values, lambda value: room.use(_shrunk(plan, knob, value)), start=len(values) - 1)
    if rough is None:
        return None
    return _largest(
        values, lambda value: _use(_turned(config, plan, knob, value), room), start=values.index(rough)
    )


def _turned(config: Config, plan: PrivacyPlan, knob: _Knob, value: float) -> Config:
    """Returns `config` with the setting at `value`, and the epsilon that leaves noise as it is in `plan`."""
    training = config.training.model_copy(update={knob.name: value})
    epsilon = max(_round_down(_shrunk(plan, knob, value).epsilon), LEAST_EPSILON)
    return with_epsilon(config, epsilon).model_copy(update={"training": training})


def _shrunk(plan: PrivacyPlan, knob: _Knob, value: float) -> PrivacyPlan:
    """Returns about the plan with the setting at `value`, of which a step of training keeps its noise.

    Counts keep their shares of the epsilon, which becomes smaller.
    """
    training = plan.queries["training"]
    mechanism = training.mechanism.model_copy(update={knob.name: value})
    turned = {"training": training.model_copy(update={"mechanism": mechanism})}
    epsilon, changed = plan.epsilon, plan
    for _ in range(3):
        scale = gaussian_mu(plan.epsilon, plan.delta) / gaussian_mu(epsilon, plan.delta)
        counts = {name: _rescaled(query, scale) for name, query in plan.queries.items()}
        changed = plan.model_copy(update={"queries": counts | turned})
        total = epsilon_at(changed.events_of(training.splits[0]), plan.delta, _INTERVAL)
        epsilon = min(total * _CARE, plan.epsilon)
    return changed.model_copy(update={"epsilon": epsilon})


def _rescaled(query: Query, scale: float) -> Query:
    if not isinstance(query.mechanism, NoisyHistograms):
        return query
    stddev = query.mechanism.noise_stddev * scale
    return query.model_copy(update={"mechanism": query.mechanism.model_copy(update={"noise_stddev": stddev})})


def _use(config: Config, room: Room) -> float:
    try:
        return room.use(make_plan(config))
    except PrivacyError:
        return math.inf


def _largest(values: Sequence[float], use: Callable[[float], float], *, start: int) -> float | None:
    """Returns the largest of ascending `values` whose `use` is 1 or less, or None; looks first at `start`.

    A plan is calibrated for each value that is looked at: a good start saves most of them.
    """
    low, high = -1, len(values)  # all up to low fit, none from high on does
    place, step = start, 1
    while high - low > 1:
        fits = use(values[place]) <= 1
        low, high = (place, high) if fits else (low, place)
        if low >= 0 and high < len(values):
            place = (low + high) // 2
        else:
            place = min(low + step, high - 1) if fits else max(high - step, 0)
        step *= 2
    return values[low] if low >= 0 else None


def _two_digits(least: float, most: float) -> list[float]:
    """Returns the numbers of two digits from `least` to `most`, and `most` itself.

    >>> _two_digits(0.97, 1.25)
    [0.97, 0.98, 0.99, 1.0, 1.1, 1.2, 1.25]
    """
    exponents = range(math.floor(math.log10(least)) - 1, math.ceil(math.log10(most)) + 1)
    numbers = (float(f"{digits}e{exponent - 1}") for exponent in exponents for digits in _DIGITS)
    return [*(number for number in numbers if least <= number < most), most]


def _round_down(value: float) -> float:
    """Returns `value` > 0 with three digits, not more than it is.

    >>> _round_down(2.3456), _round_down(0.0123456)
    (2.34, 0.0123)
    """
    scale = 10.0 ** (2 - math.floor(math.log10(value)))
    return float(f"{math.floor(value * scale * (1 + 1e-12)) / scale:.3g}")
