from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from fedpipe.memory import ALIGNMENT, align, give_back, is_aligned


def test_an_aligned_array_is_not_copied() -> None:
    array = align(np.arange(100, dtype=np.float32)[1:])

    assert is_aligned(array)
    assert array.ctypes.data % ALIGNMENT == 0
    assert align(array) is array


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' allocators decide by themselves")
def test_freed_memory_goes_back_to_the_system() -> None:
    small = [bytes(50_000) for _ in range(2000)]  # below what glibc maps by itself
    last = bytes(50_000)  # keeps the heap from shrinking at its end
    before = _resident_kilobytes()
    small.clear()
    give_back()

    assert before - _resident_kilobytes() > 50_000
    assert last


def _resident_kilobytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
