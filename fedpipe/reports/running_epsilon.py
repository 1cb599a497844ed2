"""What a block's releases so far would cost had they been planned together: a running total, no guarantee."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dp_accounting import dp_event

from fedpipe.errors import PrivacyError
from fedpipe.ledger.blocks import Block
from fedpipe.ledger.history import BlockHistory
from fedpipe.privacy import event_from_json
from fedpipe.privacy.accounting import epsilon_at
from fedpipe.reports.budget_facts import CurveFacts, CurvePoint

DELTAS = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)
# Loss distributions cost up to half a second each: beyond so many, a block shows its budget's terms alone.
NUM_READ, NUM_HISTORIES = 2000, 24
INTERVAL = 1e-3  # a bound at any; a report needs no more than three digits

ReadEvents = Callable[[str, Sequence[Block]], Mapping[Block, Mapping[str, int]]]


@dataclass(frozen=True, kw_only=True)
class RunningEpsilons:
    """Running epsilons of the scarcest blocks. Equal histories, which many have, are computed once."""

    events: Mapping[tuple[str, Block], tuple[Any, ...]]
    epsilons: Mapping[tuple[Any, float], float]

    @classmethod
    def read(cls, held: Sequence[BlockHistory], read_events: ReadEvents) -> RunningEpsilons:
        """Returns those of `held`, which come scarcest first."""
        wanted = [each for each in held if each.charges and not each.in_gap][:NUM_READ]
        by_ledger: defaultdict[str, list[Block]] = defaultdict(list)
        for each in wanted:
            by_ledger[each.ledger].append(each.block)
        events = {
            (ledger, block): tuple(sorted(found.items()))
            for ledger, blocks in by_ledger.items()
            for block, found in read_events(ledger, blocks).items()
        }
        epsilons: dict[tuple[Any, float], float] = {}
        for each in wanted:
            key = (events[each.ledger, each.block], each.policy.delta)
            if key not in epsilons and len(epsilons) < NUM_HISTORIES:
                epsilons[key] = _epsilon(*key)
        return cls(events=events, epsilons=epsilons)

    def epsilon(self, history: BlockHistory) -> float | None:
        """Returns the running epsilon, 0 for a block that nothing was asked of, None if it is not known."""
        if history.in_gap:
            return None
        if not history.charges:
            return 0.0
        events = self.events.get((history.ledger, history.block))
        return self.epsilons.get((events, history.policy.delta))

    def curves(self, held: Sequence[BlockHistory]) -> Iterable[CurveFacts]:
        """Returns the running epsilon at several deltas of the scarcest block of each split."""
        scarcest: dict[str, BlockHistory] = {}
        for each in held:
            if (each.ledger, each.block) in self.events:
                scarcest.setdefault(each.block.split, each)
        for each in scarcest.values():
            events = self.events[each.ledger, each.block]
            points = tuple(CurvePoint(delta=delta, epsilon=_epsilon(events, delta)) for delta in DELTAS)
            yield CurveFacts(block=str(each.block), points=points)


def _epsilon(events: Sequence[tuple[str, int]], delta: float) -> float:
    composed = [
        dp_event.SelfComposedDpEvent(event_from_json(json.loads(text)), number) for text, number in events
    ]
    try:
        return epsilon_at(composed, delta, INTERVAL)
    except PrivacyError:
        return math.inf  # of more releases than loss distributions can bear
