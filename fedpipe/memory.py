"""Arrays that TensorFlow can use where they lie, as copies cost more than the model; memory given back."""

from __future__ import annotations

import ctypes
import math
import os

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 64  # bytes, which TensorFlow's vector instructions rely on; numpy promises 16
M_ARENA_MAX = -8  # of glibc's malloc.h


def empty_aligned(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Returns an uninitialised float32 array of `shape` that begins at a multiple of ALIGNMENT."""
    size = 4 * math.prod(shape)
    room = np.empty(size + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + size].view(np.float32).reshape(shape)


def is_aligned(array: NDArray[np.float32]) -> bool:
    """Returns whether `array` is contiguous and begins at a multiple of ALIGNMENT."""
    return bool(array.flags.c_contiguous and array.ctypes.data % ALIGNMENT == 0)


def align(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns `array` if it is aligned, otherwise an aligned copy."""
    if is_aligned(array):
        return array
    copy = empty_aligned(array.shape)
    copy[...] = array
    return copy


def pool_nothing() -> None:
    """Lets this process free what it can, at some cost of speed; to be called before threads and TensorFlow.

    TensorFlow's pool for large arrays never shrinks, and `give_back` leaves the ends of all glibc's heaps
    but the first: so there is no pool, and one heap for all threads.
    """
    os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(M_ARENA_MAX, 1)


def give_back() -> None:
    """Returns freed memory to the system: glibc keeps much of what a large model took, for the next one."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
