"""Hosts as network namespaces behind one switch, and everything that passes it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.system.federation import Site

SUBNET = "10.77.0"
ETH_IPV4, ETH_ARP, ETH_IPV6 = 0x0800, 0x0806, 0x86DD
IGMP, TCP, ICMPV6 = 2, 6, 58
End = tuple[str, int]
# Bound to no interface, an AF_PACKET socket sees the frames of all ports of the switch.
CAPTURE = """
import socket, struct, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
with open(sys.argv[1], "wb", buffering=0) as kept:
    while True:
        frame = wire.recv(1 << 18)
        kept.write(struct.pack(">I", len(frame)) + frame)
"""


def can_make_networks() -> bool:
    """Returns whether this machine lets us make network namespaces."""
    name = f"fedpipe-{os.getpid()}-probe"
    try:
        if subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True).returncode:
            return False
        made = _ip("link", "add", "fp0", "type", "veth", "peer", "name", "fp1", namespace=name)
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
    except OSError:
        return False
    return made == 0


def _ip(*words: str, namespace: str) -> int:
    return subprocess.run(["ip", "-n", namespace, *words], check=False, capture_output=True).returncode


class Network:
    """A switch and hosts, numbered from 1, each in a namespace of its own."""

    def __init__(self, hosts: Sequence[str], capture: Path) -> None:
        self._prefix = f"fedpipe-{os.getpid()}"
        self._switch = f"{self._prefix}-switch"
        self.hosts = list(hosts)
        self._made: list[str] = []
        self._capture = capture
        self._begin(self._switch)
        self._do(self._switch, "link", "add", "br0", "type", "bridge")
        self._do(self._switch, "link", "set", "br0", "up")
        for index, host in enumerate(hosts):
            self._plug(index, self.namespace(host))
        self._wire = subprocess.Popen([*self.at(None), sys.executable, "-c", CAPTURE, str(capture)])
        self._wait_for_capture()

    def _begin(self, namespace: str) -> None:
        subprocess.run(["ip", "netns", "add", namespace], check=True)
        self._made.append(namespace)
        self._do(namespace, "link", "set", "lo", "up")

    def _plug(self, index: int, namespace: str) -> None:
        self._begin(namespace)
        port = f"port{index}"
        self._do(
            self._switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", namespace
        )
        self._do(self._switch, "link", "set", port, "master", "br0", "up")
        self._do(namespace, "addr", "add", f"{SUBNET}.{index + 1}/24", "dev", "eth0")
        self._do(namespace, "link", "set", "eth0", "up")

    @staticmethod
    def _do(namespace: str, *words: str) -> None:
        if _ip(*words, namespace=namespace):
            raise OSError(f"Expected to set a network up, found ip {' '.join(words)} refused.")

    def _wait_for_capture(self) -> None:
        while not self._capture.exists():
            time.sleep(0.05)
        assert self._wire.poll() is None

    def namespace(self, host: str) -> str:
        return f"{self._prefix}-{host}"

    def address(self, host: str) -> str:
        """Returns the address of a host."""
        return f"{SUBNET}.{self.hosts.index(host) + 1}"

    def at(self, host: str | None) -> list[str]:
        """Returns what runs a command at a host, or at the switch."""
        return ["ip", "netns", "exec", self._switch if host is None else self.namespace(host)]

    def plug(self, host: str, *, connected: bool) -> None:
        """Pulls a host's cable, or plugs it in again."""
        self._do(self._switch, "link", "set", f"port{self.hosts.index(host)}", "up" if connected else "down")

    def send(self, sender: str, receiver: str, data: bytes) -> None:
        """Sends `data` as it is, from host to host."""
        listen = "import socket, sys; s = socket.create_server((sys.argv[1], 7)); print(flush=True); "
        listen += "c = s.accept()[0]; c.recv(1 << 16)"
        talk = (
            "import socket, sys; socket.create_connection((sys.argv[1], 7)).sendall(sys.stdin.buffer.read())"
        )
        where = self.address(receiver)
        with subprocess.Popen(
            [*self.at(receiver), sys.executable, "-c", listen, where], stdout=subprocess.PIPE
        ) as listener:
            assert listener.stdout is not None
            listener.stdout.readline()
            subprocess.run([*self.at(sender), sys.executable, "-c", talk, where], input=data, check=True)

    def segments(self) -> list[tuple[End, End, bytes]]:
        """Returns (from, to, payload) of every TCP segment that passed, but empty ones."""
        return [(sender, receiver, data) for sender, receiver, _, data in self._segments()]

    def streams(self) -> dict[tuple[End, End], bytes]:
        """Returns what passed from one end to another by TCP, in order; frames are captured twice or more."""
        pieces: dict[tuple[End, End], dict[int, bytes]] = {}
        for sender, receiver, number, data in self._segments():
            known = pieces.setdefault((sender, receiver), {})
            known[number] = max(known.get(number, b""), data, key=len)
        return {ends: _join(known) for ends, known in pieces.items()}

    def protocols(self) -> set[tuple[int, int]]:
        """Returns EtherType and, of IP, the protocol of every frame that passed."""
        kinds = ((int.from_bytes(frame[12:14], "big"), frame) for frame in self._frames())
        offsets = {ETH_IPV4: 9, ETH_IPV6: 6}
        return {(kind, frame[14 + offsets[kind]] if kind in offsets else 0) for kind, frame in kinds}

    def _segments(self) -> Iterator[tuple[End, End, int, bytes]]:
        for frame in self._frames():
            yield from _segment(frame)

    def _frames(self) -> Iterator[bytes]:
        content, at = self._capture.read_bytes(), 0
        while at + 4 <= len(content):
            length = int.from_bytes(content[at : at + 4], "big")
            yield content[at + 4 : at + 4 + length]
            at += 4 + length

    def end(self) -> None:
        """Takes everything down."""
        self._wire.kill()
        self._wire.wait()
        for namespace in self._made:
            subprocess.run(["ip", "netns", "del", namespace], check=False)


def _join(pieces: dict[int, bytes]) -> bytes:
    """Returns a stream from its pieces by sequence number, of which the first is the first that came."""
    first, joined = next(iter(pieces)), bytearray()
    for number, data in sorted(pieces.items(), key=lambda piece: (piece[0] - first) % (1 << 32)):
        start = (number - first) % (1 << 32)
        assert start <= len(joined), "a frame was not captured"
        joined += data[len(joined) - start :]
    return bytes(joined)


def _segment(frame: bytes) -> list[tuple[End, End, int, bytes]]:
    packet = frame[14:]
    if int.from_bytes(frame[12:14], "big") != ETH_IPV4 or packet[9] != TCP:
        return []
    header, total = 4 * (packet[0] & 15), int.from_bytes(packet[2:4], "big") or len(packet)
    segment = packet[header:total]
    ports = int.from_bytes(segment[:2], "big"), int.from_bytes(segment[2:4], "big")
    payload = segment[4 * (segment[12] >> 4) :]
    sender, receiver = (".".join(map(str, packet[i : i + 4])) for i in (12, 16))
    number = int.from_bytes(segment[4:8], "big")
    return [((sender, ports[0]), (receiver, ports[1]), number, payload)] if payload else []


class NetworkSite(Site):
    """A federation whose operator and owners have a host each; the first host is the operator's."""

    def __init__(self, folder: Path, network: Network) -> None:
        super().__init__(folder)
        self.network = network

    def init(self) -> None:
        """Makes the federation at its host's address."""
        address = f"{self.network.address('operator')}:{self.port}"
        self.ok(
            "federation",
            "init",
            "--name=demo",
            f"--address={address}",
            f"--listen={address}",
            "--dir=fed",
        )

    def command(self, words: tuple[str, ...]) -> list[str]:
        """Returns a command that runs where whoever it belongs to is."""
        home = next(
            (word.removeprefix("--home=") for word in words if word.startswith("--home=")), "operator"
        )
        return [*self.network.at(home), *super().command(words)]
