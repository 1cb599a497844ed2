"""What every query of a run costs a record, and what that means to it.

All figures follow from the certificate's events and delta; they are public.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dp_accounting.dp_event import DpEvent

from fedpipe.ledger.certificate import BlockCost, Certificate
from fedpipe.privacy import DpSgd, NoisyHistograms, event_from_json
from fedpipe.privacy.accounting import ORDERS, epsilon_at, renyi_divergence, renyi_to_epsilon
from fedpipe.reports.wording import listing, percent, plural

FALSE_ALARMS = 0.01
_BENDS = (0.01, 0.1, 0.15)  # values of delta near which the bound at 1 % false alarms is tight
_INTERVAL = 1e-3  # coarse, since a bound at any; the result is shown in whole per cent
_SPLITS = {"train": "Training records", "eval": "Held-out records", "all": "All records"}
_QUERIES = {
    "labels": "label counts",
    "columns": "column health",
    "features": "feature counts",
    "training": "model updates",
    "evaluation": "score histograms",
    "slices": "score histograms by slice",
}


@dataclass(frozen=True, kw_only=True)
class QueryCost:
    """A line of the table: a query of a step, its mechanism in words and its part of the cost."""

    step: str
    query: str
    mechanism: str
    releases: str
    noise: str
    share: float


@dataclass(frozen=True, kw_only=True)
class StepShare:
    """A step's part of a block's cost; `start` is where it begins on the bar."""

    step: str
    share: float
    start: float


@dataclass(frozen=True, kw_only=True)
class BlockReport:
    """What the records of one block pay.

    Attributes:
      title: whose records these are.
      epsilon: of all planned events, at the certificate's delta.
      order: the Renyi order at which shares are measured.
      queries: all that may read these records.
      steps: the shares, summed by step.
      detection: see `detection_bound`, at FALSE_ALARMS.
    """

    title: str
    epsilon: float
    order: int
    queries: tuple[QueryCost, ...]
    steps: tuple[StepShare, ...]
    detection: float


def block_reports(certificate: Certificate) -> tuple[BlockReport, ...]:
    """Returns a report for each block of a private run; none otherwise."""
    return tuple(_block_report(block, certificate) for block in certificate.blocks)


def detection_bound(
    events: Sequence[DpEvent], epsilon_: float, delta: float, *, false_alarms: float
) -> float:
    """Returns an upper bound on the chance of telling that a record is present.

    It holds for whoever knows everything but that record, sees all releases and raises a false
    alarm with probability `false_alarms`. Every (epsilon, delta) that the events satisfy bounds it
    by exp(epsilon) * false_alarms + delta and by 1 - exp(-epsilon) * (1 - delta - false_alarms)
    (Kairouz, Oh, Viswanath 2015, arXiv:1311.0776, Theorem 2.1); the least bound of a few is taken.

    Args:
      events: all that may read the record.
      epsilon_: what the events satisfy at `delta`.
      delta: of `epsilon_`.
      false_alarms: in (0, 1).
    """
    pairs = [(epsilon_, delta), *((epsilon_at(events, bend, _INTERVAL), bend) for bend in _BENDS)]
    bounds = [
        bound
        for e, d in pairs
        for bound in (math.exp(min(e, 700)) * false_alarms + d, 1 - math.exp(-e) * (1 - d - false_alarms))
    ]
    return min(1.0, *bounds)


def dropout_words(certificate: Certificate) -> str:
    """Returns who did not answer, and when."""
    rounds: dict[str, list[int]] = {}
    for dropout in certificate.dropouts:
        rounds.setdefault(dropout.client, []).append(dropout.server_round)
    if not rounds:
        return "None: every client answered every round."
    missed = (f"{client} (round {listing(numbers)})" for client, numbers in rounds.items())
    return f"{listing(missed)}. What they had planned to release is counted all the same."


def vouching_words(certificate: Certificate) -> str:
    """Returns which clients signed what they accepted."""
    clients = {each.client for each in certificate.commitments}
    vouching = {each.statement.client for each in certificate.attestations}
    if not vouching:
        return "nobody: no client signed what it accepted"
    silent = sorted(clients - vouching)
    rest = f"; not by {listing(silent)}" if silent else ""
    return (
        f"{len(vouching)} of {plural(len(clients), 'client')}, each with a signature of its own on plan, "
        f"records and code{rest}"
    )


def _block_report(block: BlockCost, certificate: Certificate) -> BlockReport:
    delta = certificate.plan.delta
    events = [event_from_json(query.event) for query in block.queries]
    order = min(ORDERS, key=lambda order: renyi_to_epsilon(_divergence(events, order), order, delta))
    total = _divergence(events, order)
    shares = [_share(renyi_divergence(event, order), total) for event in events]
    queries = tuple(
        _query_cost(query.step, query.query, certificate.plan.queries[query.query].mechanism, share)
        for query, share in zip(block.queries, shares, strict=True)
    )
    return BlockReport(
        title=_SPLITS.get(block.split, block.split),
        epsilon=block.epsilon,
        order=order,
        queries=queries,
        steps=_step_shares(queries),
        detection=detection_bound(events, block.epsilon, delta, false_alarms=FALSE_ALARMS),
    )


def _divergence(events: Sequence[DpEvent], order: int) -> float:
    return math.fsum(renyi_divergence(event, order) for event in events)


def _share(part: float, total: float) -> float:
    return float(math.isinf(part)) if math.isinf(total) else part / total


def _step_shares(queries: Sequence[QueryCost]) -> tuple[StepShare, ...]:
    sums: dict[str, float] = {}
    for query in queries:
        sums[query.step] = sums.get(query.step, 0.0) + query.share
    shares, start = [], 0.0
    for step, share in sums.items():
        shares.append(StepShare(step=step, share=share, start=start))
        start += share
    return tuple(shares)


def _query_cost(step: str, query: str, mechanism: NoisyHistograms | DpSgd, share: float) -> QueryCost:
    words, releases, noise = _dp_sgd(mechanism) if isinstance(mechanism, DpSgd) else _histograms(mechanism)
    name = _QUERIES.get(query, query)
    return QueryCost(step=step, query=name, mechanism=words, releases=releases, noise=noise, share=share)


def _histograms(mechanism: NoisyHistograms) -> tuple[str, str, str]:
    several = mechanism.num_histograms > 1
    where = f"each of {mechanism.num_histograms} histograms" if several else "one histogram"
    words = f"Counts with discrete Gaussian noise; a record adds at most one to one cell of {where}."
    return words, str(mechanism.num_releases), f"standard deviation {mechanism.noise_stddev:.3g} in each cell"


def _dp_sgd(mechanism: DpSgd) -> tuple[str, str, str]:
    words = (
        f"DP-SGD: draws every record with probability {percent(mechanism.sampling_probability)}, clips its "
        f"gradient to L2 norm {mechanism.clipping_norm:g} and adds Gaussian noise to the sum."
    )
    steps = f" of {plural(mechanism.local_steps, 'local step')}" if mechanism.local_steps > 1 else ""
    noise = f"multiplier {mechanism.noise_multiplier:.3g} (times the clipping norm in each coordinate)"
    return words, f"{plural(mechanism.num_rounds, 'round')}{steps}", noise
