"""What a node keeps of models between requests: small ones stay warm, large ones last as long as a run."""

from __future__ import annotations

import gc

from fedpipe.federation import Request

LARGE_BYTES = 16 << 20


def is_large(request: Request) -> bool:
    """Returns whether `request` brings weights that are not to be kept longer than its run."""
    return sum(array.nbytes for array in request.arrays.values()) > LARGE_BYTES


def forget_models() -> None:
    """Drops every compiled model with its weights; the next run compiles its own anew."""
    from fedpipe.learning.architectures import forget_model
    from fedpipe.learning.kernel import make_kernel

    make_kernel.cache_clear()
    forget_model()
    gc.collect()  # models and their functions refer to each other
