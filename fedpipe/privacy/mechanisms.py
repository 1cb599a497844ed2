"""The two mechanisms that touch records. Each owns its noise *and* its cost.

Both protect one unit, a record or a user, against its addition or removal (neighbours). All fields
are public constants: no field may be computed from a client's data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
from dp_accounting import dp_event
from dp_accounting.dp_event import DpEvent
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from fedpipe.errors import PrivacyError
from fedpipe.privacy.events import DiscreteGaussianDpEvent
from fedpipe.privacy.randomness import Randomness

Histogram = NDArray[np.int64]


class NoisyHistograms(BaseModel):
    """Integer histograms with discrete Gaussian noise in every cell.

    Sensitivity: a record adds one to at most one cell of each histogram, so adding or removing
    it changes at most `num_histograms` cells by one each; the noise of the cells is
    independent, so the cost is that many discrete Gaussians of sensitivity 1.

    A user of k = `max_records` records moves a histogram by k at worst, all in one cell. Number
    every user's records, and let one histogram hold all first records, another all second ones, and
    so on: k histograms that a user moves by one each. Released with discrete Gaussian noise of
    variance noise_stddev^2 / k in each cell they cost k discrete Gaussians of sensitivity 1, and
    their sum, which alone leaves, is a function of them. So the cost is exact composition whatever
    cells the k records fall into, and as large as that of Gaussian noise of `noise_stddev` at
    sensitivity k. (One draw of discrete Gaussian noise is as good by Renyi divergence: Canonne, Kamath,
    Steinke 2020, arXiv:2004.00010. But exact accounting would need that one cell is the worst place
    for all k records, and no theorem that we know of says so.)

    Attributes:
      noise_stddev: of the noise in each cell that leaves.
      num_histograms: that one release holds at most.
      max_records: of a unit, that the release counts at most.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["noisy_histograms"] = "noisy_histograms"
    noise_stddev: float = Field(gt=0, allow_inf_nan=False)
    num_histograms: int = Field(ge=1)
    max_records: int = Field(default=1, ge=1)

    @property
    def event(self) -> DpEvent:
        """What one release costs."""
        draw = DiscreteGaussianDpEvent(self._draw_stddev)
        return dp_event.SelfComposedDpEvent(draw, self.num_histograms * self.max_records)

    @property
    def _draw_stddev(self) -> float:
        return self.noise_stddev / math.sqrt(self.max_records)

    @property
    def num_releases(self) -> int:
        """How often a plan makes this release."""
        return 1

    def release(
        self, arrays: Mapping[str, Histogram], randomness: Randomness, *, num_histograms: int
    ) -> dict[str, Histogram]:
        """Returns `arrays` with independent noise in every cell.

        Args:
          arrays: exact counts that together hold `num_histograms` histograms, in each of which a
            record counts at most once, of at most `max_records` records of a unit.
          randomness: the client's own generator.
          num_histograms: checked against the number that the cost is for.

        Raises:
          PrivacyError: if there are more histograms than the cost is for, or they are no integers.
        """
        if any(array.dtype.kind != "i" for array in arrays.values()):
            raise PrivacyError("Expected integer counts, found another type.")
        if num_histograms > self.num_histograms:
            raise PrivacyError(
                f"Expected at most {self.num_histograms} histograms as planned, found {num_histograms}."
            )
        size = sum(array.size for array in arrays.values())
        draws = randomness.discrete_gaussian(self._draw_stddev, self.max_records * size)
        noise = draws.reshape(self.max_records, size).sum(axis=0)
        ends = np.cumsum([array.size for array in arrays.values()], dtype=np.int64)
        return {
            name: array.astype(np.int64) + noise[end - array.size : end].reshape(array.shape)
            for (name, array), end in zip(arrays.items(), ends, strict=True)
        }


class DpSgd(BaseModel):
    """Poisson-sampled sums of clipped gradients with Gaussian noise.

    Abadi et al. 2016 (arXiv:1607.00133). Each of the `local_steps` of a round samples every
    unit independently with `sampling_probability`, clips its gradient to `clipping_norm`
    (L2) and adds normal noise of standard deviation `noise_multiplier * clipping_norm` to every
    coordinate of the *sum*. A unit is a record, or a user: her gradient is the sum over her records
    (McMahan, Ramage, Talwar, Zhang 2018, arXiv:1710.06963). An empty batch still releases noise.
    Sums are float32: the analysis is that of real numbers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["dp_sgd"] = "dp_sgd"
    sampling_probability: float = Field(gt=0, le=1)
    clipping_norm: float = Field(gt=0, allow_inf_nan=False)
    noise_multiplier: float = Field(gt=0, allow_inf_nan=False)
    num_rounds: int = Field(ge=1)
    local_steps: int = Field(ge=1)

    @property
    def event(self) -> DpEvent:
        """What one round's release costs."""
        step = dp_event.PoissonSampledDpEvent(
            self.sampling_probability, dp_event.GaussianDpEvent(self.noise_multiplier)
        )
        return dp_event.SelfComposedDpEvent(step, self.local_steps)

    @property
    def num_releases(self) -> int:
        """How often a plan makes this release."""
        return self.num_rounds

    def sample(
        self, num_units: int, randomness: Randomness, acceptance: NDArray[np.float32] | None = None
    ) -> list[NDArray[np.int32]]:
        """Returns one Poisson batch of the numbers of units for each local step.

        With `acceptance` a, a record is drawn with probability `sampling_probability` * a. The cost at
        `sampling_probability` still covers it: drawing at q a is drawing at q, and then dropping the
        record with probability 1 - a, which is to send zero, a contribution within the clipping norm.
        Given which records would be dropped, the step is a planned one; and a mixture over such coins,
        tossed alike on both of two neighbouring data sets, diverges no more than its worst part:
        hockey-stick divergences are jointly convex (Balle, Barthe, Gaboardi 2018, arXiv:1807.01647),
        Renyi divergences quasi-convex (van Erven, Harremoes 2014, arXiv:1206.2459, Theorem 13).

        Args:
          num_units: the number of records, or users, to draw from.
          randomness: the client's own generator.
          acceptance: float32 (num_units,) in [0, 1]; each is a function of public values and of that
            unit alone.

        Raises:
          PrivacyError: if a record could be drawn more often than the cost is for.
        """
        return poisson_batches(self.sampling_probability, self.local_steps, num_units, randomness, acceptance)

    def longest_release(self, num_records: float, num_parameters: int) -> float:
        """Returns an L2 norm that a round's release exceeds with probability below 1e-6.

        The number of records drawn, and the norm of the noise, each lie below six standard deviations
        above what is expected (Bernstein's inequality; Laurent and Massart 2000, Lemma 1). What is longer
        was not made by this mechanism from so many records.
        """
        expected = self.sampling_probability * num_records * self.local_steps
        drawn = expected + 6 * math.sqrt(expected) + 6
        noise = self.noise_multiplier * math.sqrt(self.local_steps) * (math.sqrt(num_parameters) + 6)
        return self.clipping_norm * (drawn + noise)

    def noise(self, num_parameters: int, randomness: Randomness) -> NDArray[np.float32]:
        """Returns noise of shape (local_steps, num_parameters)."""
        stddev = self.noise_multiplier * self.clipping_norm
        noise = randomness.normal(self.local_steps * num_parameters, stddev)
        return noise.reshape(self.local_steps, num_parameters)


MAX_COINS = 1 << 22  # tossed in one go; 8 bytes each while they are


def poisson_batches(
    probability: float,
    num_batches: int,
    num_records: int,
    randomness: Randomness,
    acceptance: NDArray[np.float32] | None = None,
) -> list[NDArray[np.int32]]:
    """Returns batches of row numbers, each record in each with `probability` times its acceptance.

    Raises:
      PrivacyError: an acceptance is not in [0, 1], or is missing for a record.
    """
    if num_batches > 1 and num_batches * num_records > MAX_COINS:
        return [
            rows
            for _ in range(num_batches)
            for rows in poisson_batches(probability, 1, num_records, randomness, acceptance)
        ]
    if acceptance is None:
        coins = randomness.bernoulli(probability, num_batches * num_records)
        return _rows_where(coins.reshape(num_batches, num_records))
    if acceptance.shape != (num_records,) or not ((acceptance >= 0) & (acceptance <= 1)).all():
        raise PrivacyError(
            "Expected an acceptance in [0, 1] for each record, found others: the cost is for no more."
        )
    coins = np.zeros((num_batches, num_records), dtype=np.bool_)
    for level in np.unique(acceptance).tolist():
        rows = np.flatnonzero(acceptance == level)
        drawn = randomness.bernoulli(probability * level, num_batches * len(rows))
        coins[:, rows] = drawn.reshape(num_batches, len(rows))
    return _rows_where(coins)


def _rows_where(coins: NDArray[np.bool_]) -> list[NDArray[np.int32]]:
    return [np.flatnonzero(row).astype(np.int32) for row in coins]
