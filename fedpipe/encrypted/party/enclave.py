"""Starts a committee's processes in one network namespace, and ends them together.

TensorFlow's server listens on every interface of its namespace and asks nobody's name. In a namespace of
its own there is only a loopback interface, which nobody outside can reach; the sockets on which parties
meet their clients are made outside and handed in, for a socket stays in the namespace where it was made.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List

from . import lifeline
from .relay import open_relays

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
_POLL_SECONDS = 0.1


def main() -> None:
    """Runs the processes that standard input names; exits 1 when one of them has ended."""
    settings = lifeline.begin()
    Path("/proc/self/comm").write_text("enclave")
    if settings["isolated"]:
        _raise_loopback()
    if settings.get("relay"):
        open_relays(**settings["relay"])
    children = [_start(role) for role in settings["roles"]]
    while all(child.poll() is None for child in children):
        time.sleep(_POLL_SECONDS)
    for child in children:
        child.kill()
    sys.exit(1)


def _start(role: Dict[str, Any]) -> subprocess.Popen[bytes]:
    """Starts a process that ends when its standard input does, which is when this one is gone."""
    listeners: List[int] = [role["listener"]] if "listener" in role else []
    child = subprocess.Popen(
        [sys.executable, "-m", "party", role["role"]], stdin=subprocess.PIPE, pass_fds=listeners
    )
    for listener in listeners:
        os.close(listener)
    if child.stdin is not None:
        child.stdin.write(json.dumps(role).encode() + b"\n")
        child.stdin.flush()
    return child


def _raise_loopback() -> None:
    """Switches the loopback interface of a new namespace on (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(control, _SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))
