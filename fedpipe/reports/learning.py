"""Training, round by round: what can be shown at no cost. A training loss would be a release."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from dp_accounting.dp_event import DpEvent, SelfComposedDpEvent

from fedpipe.ledger.certificate import Certificate
from fedpipe.privacy.accounting import epsilon_at
from fedpipe.reports.charts import LineChart, line_chart
from fedpipe.reports.evidence import RoundEvidence
from fedpipe.reports.wording import plural, round_up

_NUM_TOTALS = 10
_MAX_NAMED = 10
_INTERVAL = 1e-3  # coarse, since a bound at any; the curve is a few pixels high


@dataclass(frozen=True, kw_only=True)
class LearningReport:
    """Charts over the rounds of training, with a sentence on who answered and one on the noise."""

    norms: LineChart
    totals: LineChart | None
    answers: str
    set_aside: str
    noise: str


def learning_report(rounds: Sequence[RoundEvidence], certificate: Certificate) -> LearningReport | None:
    """Returns what is known of the rounds; None when nothing was kept of them."""
    if not rounds:
        return None
    return LearningReport(
        norms=_norms(rounds),
        totals=_totals(certificate),
        answers=_answers(rounds),
        set_aside=_set_aside(rounds),
        noise=_noise(rounds),
    )


def running_epsilon(certificate: Certificate) -> tuple[tuple[int, float], ...]:
    """Returns (rounds, epsilon of what they and the steps before training release), ten times at most.

    No guarantee holds for a run that stops there: whether it stops could depend on the records.
    """
    plan = certificate.plan
    training = plan.queries.get("training")
    if training is None:
        return ()
    split = training.splits[0]
    earlier = [query for query in plan.queries_for(split).values() if query.step not in ("train", "analyze")]
    before: list[DpEvent] = [query.events for query in earlier]
    num_rounds = training.mechanism.num_releases
    marks = sorted({math.ceil(num_rounds * part / _NUM_TOTALS) for part in range(1, _NUM_TOTALS + 1)})
    totals = [(0, epsilon_at(before, plan.delta, _INTERVAL) if before else 0.0)]
    for mark in marks:
        released = SelfComposedDpEvent(training.mechanism.event, mark)
        totals.append((mark, epsilon_at([*before, released], plan.delta, _INTERVAL)))
    return tuple(totals)


def _norms(rounds: Sequence[RoundEvidence]) -> LineChart:
    numbers = [each.server_round for each in rounds]
    noisy = [(float(each.server_round), each.noise_norm) for each in rounds if each.noise_norm > 0]
    return line_chart(
        f"Length of the mean gradient over {plural(len(rounds), 'round')}",
        "length of the mean gradient",
        numbers,
        [each.update_norm for each in rounds],
        noisy,
    )


def _totals(certificate: Certificate) -> LineChart | None:
    totals = running_epsilon(certificate)
    if not totals or not all(math.isfinite(value) for _, value in totals):
        return None
    training = certificate.plan.queries["training"]
    whole = next(block.epsilon for block in certificate.blocks if block.split in training.splits)
    rounds, values = zip(*totals, strict=True)
    return line_chart(
        f"Epsilon of training records over the rounds, up to {round_up(whole)}",
        "epsilon so far",
        rounds,
        values,
        [(0.0, whole), (float(rounds[-1]), whole)],
    )


def _answers(rounds: Sequence[RoundEvidence]) -> str:
    least, most = (pick(each.num_answered for each in rounds) for pick in (min, max))
    if least == most:
        return f"{plural(most, 'client')} answered in every round."
    mean = sum(each.num_answered for each in rounds) / len(rounds)
    return f"Between {least} and {plural(most, 'client')} answered in a round, {mean:.1f} on average."


def _set_aside(rounds: Sequence[RoundEvidence]) -> str:
    """Returns whose updates were left out or shortened, and how often; nothing if none were."""
    counts = Counter(client for each in rounds for client in each.set_aside)
    if not counts:
        return ""
    first = next(each for each in rounds if each.set_aside)
    client, reason = next(iter(first.set_aside.items()))
    named = [f"{name} ({plural(number, 'round')})" for name, number in counts.most_common(_MAX_NAMED)]
    more = f" and {len(counts) - _MAX_NAMED} more" if len(counts) > _MAX_NAMED else ""
    return (
        f"Updates that were left out or shortened, by client: {', '.join(named)}{more}. "
        f"{client}, in round {first.server_round}: {reason}."
    )


def _noise(rounds: Sequence[RoundEvidence]) -> str:
    noise = math.fsum(each.noise_norm**2 for each in rounds)
    length = math.fsum(each.update_norm**2 for each in rounds)
    if not noise or not length:
        return ""
    share = min(noise / length, 1.0)
    if share > 0.9:
        return (
            "Nearly all of a single round's length is noise; what was learnt shows in the sum of many rounds."
        )
    return f"About {share:.0%} of the squared length is noise."
