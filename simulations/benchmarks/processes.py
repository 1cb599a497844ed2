"""What running processes hold and have used, as Linux counts it in /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Usage:
    """One process at one moment.

    Attributes:
      resident_bytes: memory that it has in RAM, pages that it shares with others included.
      own_bytes: the same, with each shared page divided among those that share it.
      processor_seconds: that it has computed since it began, on all cores.
    """

    resident_bytes: int
    own_bytes: int
    processor_seconds: float
    num_threads: int
    num_files: int


def usage_of(pid: int) -> Usage:
    """Returns what the process `pid` holds and has used.

    Raises:
      OSError: there is none, or it is another user's.
    """
    root = Path(f"/proc/{pid}")
    # The name may hold blanks and brackets; what follows the last bracket does not.
    fields = (root / "stat").read_text().rpartition(")")[2].split()
    return Usage(
        resident_bytes=_kibibytes(root / "status", "VmRSS"),
        own_bytes=_kibibytes(root / "smaps_rollup", "Pss"),
        processor_seconds=(int(fields[11]) + int(fields[12])) / TICKS,
        num_threads=int(fields[17]),
        num_files=len(list((root / "fd").iterdir())),
    )


def _kibibytes(path: Path, name: str) -> int:
    lines = path.read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def size_of(paths: Iterable[Path]) -> int:
    """Returns the bytes of `paths`, files and whole folders; of those that are not there, none."""
    return sum(
        each.stat().st_size
        for path in paths
        for each in ([path] if path.is_file() else path.rglob("*"))
        if each.is_file()
    )
