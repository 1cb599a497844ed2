"""What a layer's call adds to the gradient of one variable, example by example.

Each kind knows the squared norm of every example's part and the sum of parts scaled by clipping
factors. Norms are sums of squares of the very numbers that are scaled and released: the Gram trick
(Bu et al. 2022, arXiv:2210.00038), cheaper over sequences, subtracts large numbers where positions
cancel, and a norm that rounding made too small is a bound that does not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from fedpipe.learning.tensorflow_runtime import tf

_WITHOUT_OWN_KERNELS = ContextVar("without_own_kernels", default=False)


class Clipping:
    """What every example is scaled by.

    Args:
      factors: float32 (n,), zero where the gradient is not finite.
      finite: bool (n,), whether it is; None if all are.
    """

    def __init__(self, factors: tf.Tensor, finite: tf.Tensor | None) -> None:
        self.factors = factors
        self._finite = finite
        self._scaled: dict[Any, tf.Tensor] = {}

    def clean(self, values: tf.Tensor) -> tf.Tensor:
        """Returns `values` (n, ...) with zeros for examples that are not finite: infinity times 0 is NaN."""
        if self._finite is None:
            return values
        return tf.where(_along(self._finite, values), values, tf.zeros_like(values))

    def scale(self, values: tf.Tensor) -> tf.Tensor:
        """Returns `values` (n, ...), each example times its factor."""
        if values.ref() not in self._scaled:
            self._scaled[values.ref()] = self.clean(values) * _along(self.factors, values)
        return self._scaled[values.ref()]


def clip_and_sum(
    squared_norms: tf.Tensor, clipping_norm: tf.Tensor, make_sum: Callable[[Clipping], tf.Tensor]
) -> tf.Tensor:
    """Returns `make_sum` for factors min(1, clipping_norm / norm) of examples with squared norms (n,)."""
    finite = tf.math.is_finite(squared_norms)
    factors = tf.minimum(1.0, clipping_norm * tf.math.rsqrt(tf.maximum(squared_norms, 1e-30)))
    # Nearly always all are finite, and to make sure of it by a copy of the inputs costs as much as the model.
    return tf.cond(
        tf.reduce_all(finite),
        lambda: make_sum(Clipping(factors, None)),
        lambda: make_sum(Clipping(tf.where(finite, factors, 0.0), finite)),
    )


class Contribution(Protocol):
    """One call's part of every example's gradient of one variable."""

    def squared_norms(self) -> tf.Tensor:
        """Returns float32 (n,)."""

    def clipped_sum(self, clipping: Clipping) -> tf.Tensor:
        """Returns the sum of all examples' parts, each scaled: the variable's number of elements."""

    def per_example(self) -> tf.Tensor:
        """Returns float32 (n, number of elements): every example's part in full."""


class PerExample:
    """Gradients that are held in full, since they are small or cross terms leave no other exact way."""

    def __init__(self, make: Callable[[], tf.Tensor]) -> None:
        self._make = make
        self._made: tf.Tensor | None = None

    def per_example(self) -> tf.Tensor:
        """Returns float32 (n, number of elements)."""
        if self._made is None:
            self._made = self._make()
        return self._made

    def squared_norms(self) -> tf.Tensor:
        """Returns float32 (n,)."""
        return row_squares(self.per_example())

    def clipped_sum(self, clipping: Clipping) -> tf.Tensor:
        """Returns float32 (number of elements,)."""
        return tf.linalg.matvec(clipping.clean(self.per_example()), clipping.factors, transpose_a=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class Outer:
    """A matrix used once on a vector: gradients are outer products, a (n, fan_in) by d (n, units).

    The squared norm is |a|^2 |d|^2 and the clipped sum a^T (c d): no gradient is ever formed.
    Goodfellow 2015 (arXiv:1510.01799).
    """

    a: tf.Tensor
    d: tf.Tensor

    def squared_norms(self) -> tf.Tensor:
        """Returns float32 (n,)."""
        return row_squares(self.a) * row_squares(self.d)

    def clipped_sum(self, clipping: Clipping) -> tf.Tensor:
        """Returns float32 (fan_in * units,)."""
        return tf.reshape(tf.matmul(clipping.clean(self.a), clipping.scale(self.d), transpose_a=True), [-1])

    def per_example(self) -> tf.Tensor:
        """Returns float32 (n, fan_in * units)."""
        return _flat(self.a[:, :, tf.newaxis] * self.d[:, tf.newaxis, :])


@dataclass(frozen=True, kw_only=True, eq=False)
class Identity:
    """A bias used once: its gradient is d (n, units) itself."""

    d: tf.Tensor

    def squared_norms(self) -> tf.Tensor:
        """Returns float32 (n,)."""
        return row_squares(self.d)

    def clipped_sum(self, clipping: Clipping) -> tf.Tensor:
        """Returns float32 (units,)."""
        return tf.reduce_sum(clipping.scale(self.d), axis=0)

    def per_example(self) -> tf.Tensor:
        """Returns float32 (n, units)."""
        return self.d


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Rows of a table: an example's gradient has d (n, positions, width) in its rows `ids` (n, positions).

    Repeated rows add up before they are squared.
    """

    ids: tf.Tensor
    d: tf.Tensor
    num_rows: int

    def squared_norms(self) -> tf.Tensor:
        """Returns float32 (n,)."""
        same = tf.cast(self.ids[:, :, tf.newaxis] == self.ids[:, tf.newaxis, :], tf.float32)
        # Every position sees its row's whole gradient; a row seen m times is counted m times.
        sums = tf.matmul(same, self.d)
        return tf.reduce_sum(tf.reduce_sum(sums**2, axis=2) / tf.reduce_sum(same, axis=2), axis=1)

    def clipped_sum(self, clipping: Clipping) -> tf.Tensor:
        """Returns float32 (num_rows * width,): every row, whether it was looked up or not."""
        values = tf.reshape(clipping.scale(self.d), [-1, self.d.shape[2]])
        return tf.reshape(
            tf.math.unsorted_segment_sum(values, tf.reshape(self.ids, [-1]), self.num_rows), [-1]
        )

    def per_example(self) -> tf.Tensor:
        """Returns float32 (n, num_rows * width)."""
        return _flat(tf.matmul(tf.one_hot(self.ids, self.num_rows), self.d, transpose_a=True))

    def followed_by(self, other: Rows) -> Rows:
        """Returns what both calls of one table contribute together."""
        ids, d = tf.concat([self.ids, other.ids], axis=1), tf.concat([self.d, other.d], axis=1)
        return Rows(ids=ids, d=d, num_rows=self.num_rows)


def matrix_over_positions(a: tf.Tensor, d: tf.Tensor) -> PerExample:
    """Returns what a matrix used at every position contributes: the sum of a_t d_t^T, with all cross terms.

    Args:
      a: float32 (n, positions, fan_in).
      d: float32 (n, positions, units).
    """
    return PerExample(lambda: _flat(tf.matmul(a, d, transpose_a=True)))


def join(first: Contribution, second: Contribution) -> Contribution:
    """Returns what two uses of one variable contribute: gradients add up before they are clipped."""
    if isinstance(first, Rows) and isinstance(second, Rows):
        return first.followed_by(second)
    return PerExample(lambda: first.per_example() + second.per_example())


def of_units(part: Contribution, max_records: int) -> Contribution:
    """Returns what units contribute, each `max_records` consecutive examples: their gradients add up.

    All cross terms between a unit's examples are in it: its norm is that of the sum.
    """
    if max_records == 1:
        return part
    match part:
        case Outer(a=a, d=d):
            return matrix_over_positions(_by_unit(a, max_records), _by_unit(d, max_records))
        case Identity(d=d):
            return Identity(d=tf.reduce_sum(_by_unit(d, max_records), axis=1))
        case Rows(ids=ids, d=d, num_rows=num_rows):
            count = max_records * ids.shape[1]
            ids, d = tf.reshape(ids, [-1, count]), tf.reshape(d, [-1, count, d.shape[2]])
            return Rows(ids=ids, d=d, num_rows=num_rows)
    return PerExample(lambda: tf.reduce_sum(_by_unit(part.per_example(), max_records), axis=1))


def _by_unit(values: tf.Tensor, max_records: int) -> tf.Tensor:
    """Returns (n, width) as (units, max_records, width)."""
    return tf.reshape(values, [-1, max_records, values.shape[1]])


def is_lean(part: Contribution) -> bool:
    """Returns whether `part` takes little more memory than the activations do, for any batch."""
    return isinstance(part, (Outer, Identity))


@contextmanager
def without_own_kernels() -> Iterator[None]:
    """Leaves out what only TensorFlow's own kernels do fast, and XLA does not know."""
    token = _WITHOUT_OWN_KERNELS.set(True)
    try:
        yield
    finally:
        _WITHOUT_OWN_KERNELS.reset(token)


def row_squares(values: tf.Tensor) -> tf.Tensor:
    """Returns the squared length of each row: float32 (n,) for (n, width)."""
    if _WITHOUT_OWN_KERNELS.get():
        return tf.reduce_sum(tf.square(values), axis=1)
    # Its kernel squares while it adds: no array of squares goes through memory.
    return tf.square(tf.math.reduce_euclidean_norm(values, axis=1))


def _along(vector: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    return tf.reshape(vector, [-1] + [1] * (len(values.shape) - 1))


def _flat(values: tf.Tensor) -> tf.Tensor:
    width = values.shape[1] * values.shape[2]
    return tf.reshape(values, [-1, width])
