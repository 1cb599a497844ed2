"""How each kind of layer tells per-example norms and clipped sums without per-example backward passes."""

from fedpipe.learning.rules.contributions import (
    Clipping,
    Contribution,
    clip_and_sum,
    is_lean,
    join,
    of_units,
    without_own_kernels,
)
from fedpipe.learning.rules.layers import Call, contributions, has_rule

__all__ = [
    "Call",
    "Clipping",
    "Contribution",
    "clip_and_sum",
    "contributions",
    "has_rule",
    "is_lean",
    "join",
    "of_units",
    "without_own_kernels",
]
