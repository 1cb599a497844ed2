"""Whether the balance of classes has shifted, and what to do about it: from released counts alone.

A *group* is the records of one span over all clients, or those of one client over all spans. With n_c
noisy labelled records of class c, of both splits, N = sum of n_c and K classes, its shares are
p_c = n_c / N. To first order the noise of N and of n_c moves p_c by (e_c - p_c * sum of e) / N, so with
noise of variance v in each cell, and with p pooled over the two groups that are compared,

    var(p_c) = p (1 - p) / N                             from sampling
             + v ((1 - p)^2 + (K - 1) p^2) / N^2         from noise.

The difference of two groups has the sum of their variances. A difference is a shift if it is large (a
setting) and surely more than chance: 2.5 standard deviations or more. The newest span is compared with
the one before it at exactly that. All other comparisons of a run share one such chance of a false alarm
(Bonferroni), so that a year of weeks does not raise one after the other. All of it is post-processing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from fedpipe.config import ValidateSettings
from fedpipe.data.balance import Answer, Balance
from fedpipe.data.spans import UNDATED, previous_span
from server.artifacts import Statistics

SURE_DEVIATIONS = 2.5
# Below, a group's size is so unsure that the shares' error is no longer what the formula says.
LEAST_SIZE_DEVIATIONS = 5.0
LEAST_WEIGHT = 0.05


@dataclass(frozen=True, kw_only=True)
class Group:
    """Noisy labelled records by class, float64 (num_classes,), each with noise of `noise_stddev`."""

    name: str
    counts: NDArray[np.float64]
    noise_stddev: float

    @property
    def size(self) -> float:
        """The noisy number of labelled records."""
        return float(self.counts.sum())

    @property
    def shares(self) -> NDArray[np.float64]:
        """The share of each class; noise can carry one below 0 or above 1."""
        return self.counts / self.size

    @property
    def is_sure(self) -> bool:
        """Whether there are surely records, enough for their number to be known."""
        return self.size >= max(1.0, LEAST_SIZE_DEVIATIONS * self.noise_stddev * math.sqrt(self.counts.size))


@dataclass(frozen=True, kw_only=True)
class Shift:
    """The class whose share differs most between two groups, from `earlier` to `later`."""

    earlier: str
    later: str
    label: int
    share_before: float
    share_after: float
    deviations: float

    @property
    def change(self) -> float:
        """How much the share changed, without its sign."""
        return abs(self.share_after - self.share_before)


def span_shifts(
    statistics: Statistics, settings: ValidateSettings, reference: Statistics | None = None
) -> tuple[Shift, ...]:
    """Returns the alerts: spans whose balance differs from that of the last span before with enough records.

    Args:
      statistics: of this run.
      settings: how large a change is an alert.
      reference: of an earlier run; used if it counted the span just before this run's first, over the
        clients that both runs have.
    """
    groups = _span_groups(statistics, reference)
    shifts = [compare(earlier, later) for earlier, later in itertools.pairwise(groups)]
    return tuple(
        shift
        for number, shift in enumerate(shifts, start=1)
        if _is_surely(
            shift, settings.max_label_shift, groups[0], 1 if number == len(shifts) else len(shifts) - 1
        )
    )


def client_shifts(statistics: Statistics, settings: ValidateSettings) -> tuple[Shift, ...]:
    """Returns the clients whose balance differs from that of all others together."""
    everybody = _group(statistics, "all", list(statistics.label_counts))
    shifts = []
    for client in statistics.label_counts:
        group = _group(statistics, client, [client])
        others = _without(everybody, group)
        if group.is_sure and others.is_sure:
            shifts.append(compare(others, group))
    return tuple(
        shift for shift in shifts if _is_surely(shift, settings.max_client_shift, everybody, len(shifts))
    )


def compare(earlier: Group, later: Group) -> Shift:
    """Returns the largest change of a class's share between two groups that both have records."""
    changes = later.shares - earlier.shares
    label = int(np.argmax(np.abs(changes)))
    pooled = float((earlier.counts + later.counts)[label] / (earlier.size + later.size))
    variance = sum(_share_variance(group, min(max(pooled, 0.0), 1.0)) for group in (earlier, later))
    change = float(changes[label])
    return Shift(
        earlier=earlier.name,
        later=later.name,
        label=label,
        share_before=float(earlier.shares[label]),
        share_after=float(later.shares[label]),
        deviations=abs(change) / math.sqrt(variance) if variance else math.inf if change else 0.0,
    )


def make_balance(
    statistics: Statistics,
    shifts: Sequence[Shift],
    settings: ValidateSettings,
    *,
    num_classes: int,
    reference: Statistics | None = None,
) -> Balance:
    """Returns weights by span and class: ones without an alert, or where warning is the answer.

    In each span, a class weighs (target share) / (its share there), scaled so that the heaviest class
    weighs 1: after weighting, all spans have the target's balance, and none loses more than it must. No
    weight is below LEAST_WEIGHT. Spans with too few records to know their balance keep weights of 1.
    """
    groups = _span_groups(statistics, reference)
    answer = _answer(settings)
    if answer == "none" or not shifts:
        return Balance.even(statistics.spans, num_classes)
    target = _target(groups, settings, num_classes)
    known = {group.name: _weights(group, target) for group in groups}
    ones = (1.0,) * num_classes
    return Balance(
        answer=answer,
        spans=statistics.spans,
        weights=tuple(known.get(span, ones) for span in statistics.spans),
    )


def _answer(settings: ValidateSettings) -> Answer:
    chosen = settings.on_label_shift
    return chosen if chosen == "reweight" or chosen == "resample" else "none"


def _target(groups: Sequence[Group], settings: ValidateSettings, num_classes: int) -> NDArray[np.float64]:
    if settings.shift_target == "even":
        return np.full(num_classes, 1 / num_classes)
    # There was an alert, so there are two groups or more.
    return _sure_shares(groups[-1 if settings.shift_target == "newest" else -2])


def _weights(group: Group, target: NDArray[np.float64]) -> tuple[float, ...]:
    ratios = target / _sure_shares(group)
    weights: list[float] = np.clip(ratios / ratios.max(), LEAST_WEIGHT, 1.0).tolist()
    return tuple(weights)


def _sure_shares(group: Group) -> NDArray[np.float64]:
    """Returns shares above zero: noise can hide a rare class, and none may weigh infinitely much."""
    counts = np.maximum(group.counts, max(1.0, group.noise_stddev))
    shares: NDArray[np.float64] = counts / counts.sum()
    return shares


def _is_surely(shift: Shift, largest: float, group: Group, num_comparisons: int) -> bool:
    # Of two classes, one share says it all; of more, the largest of as many changes is looked at.
    num_classes = group.counts.size
    num_tests = num_comparisons * (num_classes if num_classes > 2 else 1)
    tail = NormalDist().cdf(-SURE_DEVIATIONS) / num_tests
    # Shares that differ by exactly the setting must not depend on how they are rounded.
    return shift.change >= largest - 1e-9 and shift.deviations >= -NormalDist().inv_cdf(tail) - 1e-9


def _share_variance(group: Group, share: float) -> float:
    sampling = share * (1 - share) / group.size
    others = group.counts.size - 1
    noise = (group.noise_stddev / group.size) ** 2 * ((1 - share) ** 2 + others * share**2)
    return sampling + noise


def _span_groups(statistics: Statistics, reference: Statistics | None) -> list[Group]:
    """Returns the spans with enough records, oldest first, with the one before them if `reference` has it."""
    clients = list(statistics.label_counts)
    groups = [_group(statistics, span, clients, [span]) for span in statistics.spans]
    before = _span_before(statistics, reference)
    shared = [client for client in clients if reference and client in reference.label_counts]
    if reference and before and shared:
        groups.insert(0, _group(reference, before, shared, [before]))
    return [group for group in groups if group.is_sure]


def _span_before(statistics: Statistics, reference: Statistics | None) -> str | None:
    if reference is None or statistics.spans[0] == UNDATED:
        return None
    before = previous_span(statistics.spans[0])
    return before if before in reference.spans else None


def _group(
    statistics: Statistics, name: str, clients: Sequence[str], spans: Sequence[str] | None = None
) -> Group:
    """Returns the labelled records of both splits, over some clients and spans (all, if None)."""
    places = [statistics.spans.index(span) for span in spans or statistics.spans]
    tables = np.array([statistics.label_counts[client] for client in clients], dtype=np.float64)
    counts = tables[:, places, :, :-1].sum(axis=(0, 1, 2))
    num_cells = len(clients) * len(places) * 2
    return Group(name=name, counts=counts, noise_stddev=statistics.label_noise_stddev * math.sqrt(num_cells))


def _without(everybody: Group, one: Group) -> Group:
    variance = max(everybody.noise_stddev**2 - one.noise_stddev**2, 0.0)
    return Group(name="others", counts=everybody.counts - one.counts, noise_stddev=math.sqrt(variance))
