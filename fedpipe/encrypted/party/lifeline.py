"""How a process starts and ends with its committee, and what it must never leave behind."""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import resource
import signal
import threading
from typing import Any, Dict

_PR_SET_PDEATHSIG = 1


def begin() -> Dict[str, Any]:
    """Returns the settings, a line on standard input; ends the process when that input or its parent ends.

    Nothing of its memory, where shares lie, may reach a disk.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.register(signal.SIGUSR1)  # says where each thread is, and no values
    # A process that hangs does not see the end of its input.
    die_with_parent()
    settings: Dict[str, Any] = json.loads(_read_line())
    threading.Thread(target=_end_with_parent, name="lifeline", daemon=True).start()
    return settings


def die_with_parent() -> None:
    """Has the kernel kill this process when its parent ends, however that happens; prctl(2)."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended meanwhile
        os._exit(1)


def resident_bytes() -> int:
    """Returns how much memory the process holds."""
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _read_line() -> bytes:
    # Unbuffered: a buffer that a waiting thread holds would keep the interpreter from ending.
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 1)
        if not piece:
            os._exit(0)
        line += piece
    return line


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)
