"""How many more retrainings blocks afford, at the pace of their last runs."""

from __future__ import annotations

from collections.abc import Sequence

from fedpipe.ledger.history import BlockHistory
from fedpipe.reports.budget_facts import GroupFacts
from fedpipe.reports.wording import plural

PACE_RUNS = 4
ROUNDING = 1 + 1e-9


def retrainings_left(history: BlockHistory) -> int | None:
    """Returns how many more runs the block affords at the mean cost of its last ones."""
    recent = history.charges[-PACE_RUNS:]
    if history.in_gap:
        return 0
    if not recent:
        return None
    pace = sum(charge.held for charge in recent) / len(recent)
    return int(history.left / pace * ROUNDING)


def forecasts(spans: Sequence[GroupFacts]) -> list[str]:
    """Returns how long the blocks of each span last, in words; neighbours may share a sentence."""
    known = [each for each in spans if each.retrainings_left is not None]
    sentences, start = [], 0
    for place, each in enumerate(known):
        last = place + 1 == len(known)
        if last or known[place + 1].retrainings_left != each.retrainings_left:
            sentences.append(_forecast(known[start : place + 1]))
            start = place + 1
    return sentences


def _forecast(spans: Sequence[GroupFacts]) -> str:
    first, last = spans[0].name, spans[-1].name
    of = f"of {first}" if first == last else f"of {first} to {last}"
    left = spans[0].retrainings_left or 0
    if not left:
        return f"The blocks {of} are exhausted: they cannot pay for another retraining like their last."
    return (
        f"At the pace of their last runs (up to {PACE_RUNS}), the blocks {of} last "
        f"{plural(left, 'more retraining')}."
    )
