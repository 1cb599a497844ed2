"""Server optimisers: what a coordinator makes of a round's aggregate. State goes in, state comes out.

All of it is post-processing of noisy sums that were released and charged before, so the choice of
a strategy, its settings and its state cost no privacy.

  fedavg       McMahan et al. 2017, arXiv:1602.05629: follow the aggregate.
  fedavgm      Hsu, Qi, Brown 2019, arXiv:1909.06335: momentum on the aggregate.
  fedprox      Li et al. 2020, arXiv:1812.06127: fedavg here; the pull is in the clients' local steps.
  fedadagrad, fedadam, fedyogi
               Reddi et al. 2021, arXiv:2003.00295, Algorithm 2: steps scaled per weight. fedadam
               corrects the moments' start at zero as Kingma and Ba 2015, arXiv:1412.6980, section 3.

What the papers call the pseudo-gradient is the negative of `gradient` here: weights move against it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from fedpipe.federation.aggregation import Gradient
from fedpipe.learning import TrainingSettings

Moments = Mapping[str, Gradient]


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """One server optimiser.

    Attributes:
      moments: names of the arrays that it remembers, each float64 (num_parameters,), zero at first.
      step: (moments, gradient float64 (num_parameters,), server_round from 1) -> (direction, moments);
        the weights move by minus the step size times `direction`.
    """

    moments: tuple[str, ...]
    step: Callable[[Moments, Gradient, int], tuple[Gradient, Moments]]

    def start(self, num_parameters: int) -> Moments:
        """Returns the state before the first round."""
        return {name: np.zeros(num_parameters) for name in self.moments}


def make_strategy(settings: TrainingSettings) -> Strategy:
    """Returns the strategy that `settings` name."""
    match settings.strategy:
        case "fedadagrad":
            return fedadagrad(tau=settings.tau)
        case "fedadam":
            return fedadam(beta_1=settings.beta_1, beta_2=settings.beta_2, tau=settings.tau)
        case "fedyogi":
            return fedyogi(beta_1=settings.beta_1, beta_2=settings.beta_2, tau=settings.tau)
    return fedavgm(momentum=settings.server_momentum) if settings.server_momentum else fedavg()


def fedavg() -> Strategy:
    """Returns the strategy that follows the aggregate as it is.

    >>> direction, _ = fedavg().step({}, np.array([2.0, 0.0]), 1)
    >>> direction.tolist()
    [2.0, 0.0]
    """
    return Strategy(moments=(), step=lambda moments, gradient, server_round: (gradient, moments))


def fedavgm(*, momentum: float) -> Strategy:
    """Returns heavy-ball momentum: velocity = momentum * velocity + gradient."""

    def step(moments: Moments, gradient: Gradient, server_round: int) -> tuple[Gradient, Moments]:
        velocity = momentum * moments["velocity"] + gradient
        return velocity, {"velocity": velocity}

    return Strategy(moments=("velocity",), step=step)


def fedadagrad(*, tau: float) -> Strategy:
    """Returns steps divided by the root of the sum of all squares so far, plus `tau`."""

    def step(moments: Moments, gradient: Gradient, server_round: int) -> tuple[Gradient, Moments]:
        second = moments["second"] + gradient**2
        return gradient / (np.sqrt(second) + tau), {"second": second}

    return Strategy(moments=("second",), step=step)


def fedadam(*, beta_1: float, beta_2: float, tau: float) -> Strategy:
    """Returns the mean gradient over the root of the mean square, plus `tau`; both means fade."""

    def step(moments: Moments, gradient: Gradient, server_round: int) -> tuple[Gradient, Moments]:
        first = beta_1 * moments["first"] + (1 - beta_1) * gradient
        second = beta_2 * moments["second"] + (1 - beta_2) * gradient**2
        correction = np.sqrt(1 - beta_2**server_round) / (1 - beta_1**server_round)
        return correction * first / (np.sqrt(second) + tau), {"first": first, "second": second}

    return Strategy(moments=("first", "second"), step=step)


def fedyogi(*, beta_1: float, beta_2: float, tau: float) -> Strategy:
    """Returns steps as fedadam's, but the mean square changes by no more than the newest square allows."""

    def step(moments: Moments, gradient: Gradient, server_round: int) -> tuple[Gradient, Moments]:
        square = gradient**2
        first = beta_1 * moments["first"] + (1 - beta_1) * gradient
        second = moments["second"] - (1 - beta_2) * square * np.sign(moments["second"] - square)
        return first / (np.sqrt(second) + tau), {"first": first, "second": second}

    return Strategy(moments=("first", "second"), step=step)
