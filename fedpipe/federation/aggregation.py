"""What a round's noisy sums become: one mean gradient, with updates set aside that no honest client sends.

Everything here is post-processing of releases, so none of it costs privacy, and no noise is added
after it. The rules against lying clients look at each client's own mean gradient and weigh all
clients alike, so small clients, whose noise is loud, count as much as large ones.

  median        coordinate by coordinate (Yin et al. 2018, arXiv:1803.01498, Definition 1)
  trimmed_mean  without the f largest and f smallest of each coordinate (the same, Definition 2)
  krum          the update closest to its n - f - 2 nearest (Blanchard et al. 2017, arXiv:1703.02757)
  multi_krum    the mean of the n - f updates that are closest to theirs (the same, section 4)
  bulyan        n - 2f by multi_krum, then of each coordinate the mean of the n - 4f nearest to the
                median (El Mhamdi, Guerraoui, Rouault 2018, arXiv:1802.07927)

n clients answered, of which f lie. The selections are those of Flower's strategies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedpipe.errors import FederationError
from fedpipe.federation.messages import Reply, array_of
from fedpipe.learning import TrainingSettings

Gradient: TypeAlias = NDArray[np.float64]
Rule: TypeAlias = Callable[[Gradient, int], tuple[Gradient, NDArray[np.intp]]]
"""(float64 (n, num_parameters), f) -> (the aggregate, the rows that are in it)."""


@dataclass(frozen=True, kw_only=True)
class Update:
    """A client's answer: the sum of its local steps, of shape (num_parameters,), and its counted size."""

    client: str
    total: NDArray[Any]
    size: float


@dataclass(frozen=True, kw_only=True)
class Aggregate:
    """A round's mean gradient, and the clients whose updates are not in it as they came, with the reason."""

    gradient: Gradient
    set_aside: Mapping[str, str] = field(default_factory=dict)


def read_updates(
    replies: Sequence[Reply], sizes: Mapping[str, float], shape: tuple[int, ...]
) -> list[Update]:
    """Returns the updates in `replies`, each with its client's counted size.

    Raises:
      FederationError: one is no array of `shape` of finite numbers.
    """
    return [
        Update(client=reply.client, total=array_of(reply, "sum", shape), size=sizes[reply.client])
        for reply in replies
    ]


def aggregate(
    updates: Sequence[Update],
    settings: TrainingSettings,
    *,
    least_total: float,
    longest: Callable[[float], float] | None = None,
) -> Aggregate:
    """Returns the mean gradient of the clients' records, by the rule that `settings` name.

    Args:
      updates: at least one.
      settings: public constants.
      least_total: a total size below this is noise, and is raised to it.
      longest: the L2 norm that an honest sum of a client of the given size has at most. What is
        longer is shortened to it.

    Raises:
      FederationError: too few answered for the rule.
    """
    bounded, shortened = _shorten(updates, longest)
    if settings.aggregation == "mean":
        total = max(sum(update.size for update in bounded), least_total, 1.0)
        summed = np.zeros(bounded[0].total.shape)
        for update in bounded:
            summed += update.total
        return Aggregate(gradient=summed / (settings.sampling_probability * total), set_aside=shortened)
    least_size = max(least_total / len(bounded), 1.0)
    means = np.stack([update.total / np.float64(max(update.size, least_size)) for update in bounded])
    gradient, chosen = _chosen_rule(settings, len(bounded))(means, settings.num_byzantine)
    left = set(range(len(bounded))) - set(chosen.tolist())
    why = f"{settings.aggregation} took others: its update is far from theirs"
    set_aside = {bounded[index].client: why for index in sorted(left)} if settings.names_clients else {}
    return Aggregate(gradient=gradient / settings.sampling_probability, set_aside=shortened | set_aside)


def _shorten(
    updates: Sequence[Update], longest: Callable[[float], float] | None
) -> tuple[list[Update], dict[str, str]]:
    """Returns `updates` within their bounds, and what was done to those that were not."""
    if longest is None:
        return list(updates), {}
    bounded, told = [], {}
    for update in updates:
        total, bound = update.total.astype(np.float64), longest(update.size)
        norm = float(np.linalg.norm(total))
        if norm <= bound:
            bounded.append(update)
            continue
        bounded.append(replace(update, total=total * (bound / norm)))
        told[update.client] = f"its update was {norm / bound:.3g} times as long as an honest one can be"
    return bounded, told


def _chosen_rule(settings: TrainingSettings, num_updates: int) -> Rule:
    rule, least = RULES[settings.aggregation], least_updates(settings)
    if num_updates < least:
        raise FederationError(
            f"Expected {least} updates or more for training.aggregation={settings.aggregation} against "
            f"{settings.num_byzantine} lying clients, found {num_updates}: lower training.num_byzantine, or "
            "wait for more clients (training.min_cohort). What was done is kept."
        )
    return rule


def least_updates(settings: TrainingSettings) -> int:
    """Returns how many updates the rule needs to withstand `num_byzantine` lying clients.

    >>> least_updates(TrainingSettings(aggregation="krum", num_byzantine=2))
    7
    """
    f = settings.num_byzantine
    return {"trimmed_mean": 2 * f + 1, "krum": 2 * f + 3, "multi_krum": 2 * f + 3, "bulyan": 4 * f + 3}.get(
        settings.aggregation, 1
    )


def median(updates: Gradient, num_byzantine: int) -> tuple[Gradient, NDArray[np.intp]]:
    """Returns the median of each coordinate.

    >>> median(np.array([[1.0], [2.0], [90.0]]), 1)[0].tolist()
    [2.0]
    """
    return np.median(updates, axis=0), np.arange(len(updates))


def trimmed_mean(updates: Gradient, num_byzantine: int) -> tuple[Gradient, NDArray[np.intp]]:
    """Returns the mean of each coordinate without its `num_byzantine` largest and smallest values."""
    ordered = np.sort(updates, axis=0)
    return ordered[num_byzantine : len(updates) - num_byzantine].mean(axis=0), np.arange(len(updates))


def krum(updates: Gradient, num_byzantine: int) -> tuple[Gradient, NDArray[np.intp]]:
    """Returns the update that lies closest to its nearest."""
    chosen = _closest(updates, num_byzantine, 1)
    return updates[chosen[0]], chosen


def multi_krum(updates: Gradient, num_byzantine: int) -> tuple[Gradient, NDArray[np.intp]]:
    """Returns the mean of all updates but the `num_byzantine` that lie farthest from their nearest."""
    chosen = _closest(updates, num_byzantine, len(updates) - num_byzantine)
    return updates[chosen].mean(axis=0), chosen


def bulyan(updates: Gradient, num_byzantine: int) -> tuple[Gradient, NDArray[np.intp]]:
    """Returns, coordinate by coordinate, the mean of the selected values that are nearest to their median."""
    chosen = _closest(updates, num_byzantine, len(updates) - 2 * num_byzantine)
    selected = updates[chosen]
    distances = np.abs(selected - np.median(selected, axis=0))
    nearest = np.argsort(distances, axis=0, kind="stable")[: len(selected) - 2 * num_byzantine]
    return np.take_along_axis(selected, nearest, axis=0).mean(axis=0), chosen


RULES: Mapping[str, Rule] = {
    "median": median,
    "trimmed_mean": trimmed_mean,
    "krum": krum,
    "multi_krum": multi_krum,
    "bulyan": bulyan,
}


def _closest(updates: Gradient, num_byzantine: int, number: int) -> NDArray[np.intp]:
    """Returns the rows of the `number` updates that lie closest, in sum of squares, to their nearest."""
    squares = np.square(updates).sum(axis=1)
    distances = squares[:, None] + squares[None, :] - 2 * updates @ updates.T
    np.fill_diagonal(distances, -math.inf)  # each is nearest to itself, whatever rounding says
    nearest = np.sort(distances, axis=1)[:, 1 : 1 + max(1, len(updates) - num_byzantine - 2)]
    return np.sort(np.argsort(nearest.sum(axis=1), kind="stable")[:number])
