"""Parties at hosts of their own, each a network namespace, with everything that leaves one captured."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml

from fedpipe.encrypted import provisioning
from server.prediction.access import new_key
from tests.system.conftest import Shell
from tests.system.encrypted_service import Running, train
from tests.system.network import ETH_ARP, ETH_IPV4, ETH_IPV6, ICMPV6, IGMP, TCP, Network, can_make_networks
from tests.unit.encrypted.certificates import Authority

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not can_make_networks(), reason="needs the right to make network namespaces"),
]

PARTIES = ("party0", "party1", "party2")
HOSTS = ("coordinator", *PARTIES, "client")
TUNNEL, CLIENTS, FRONT_END = 9440, (9443, 9444), 8601
# What hosts ask each other before they can speak at all.
NEIGHBORS = {(ETH_ARP, 0), (ETH_IPV4, IGMP), (ETH_IPV6, 0), (ETH_IPV6, ICMPV6)}
ROOT = Path(__file__).parents[2]
# Asks by hand, as docs/encrypted-client.md has it, and keeps what nobody else may see.
ASK = """
import json, sys, httpx
from fedpipe.encrypted.client import EncryptedClient, trust
from fedpipe.encrypted.shares import encode_fixed, share
from fedpipe.encrypted.wire import encode_pair
from tests.system.encrypted_service import HEADER_BYTES, rows_of, send
url, key, authority, kept = sys.argv[1:]
with EncryptedClient(url, key=key, verify=trust(authority)) as client:
    rows = rows_of(client, 1)
    assert len(client.predict_encoded(rows).labels) == 1
words = encode_fixed(rows, max_magnitude=1e3)
headers = {"authorization": "Bearer " + key}
ticket = httpx.post(url + "/v1/requests", json={"rows": 1}, headers=headers).json()
pairs = share(words)
answers = send(ticket, pairs)
assert [status for status, _ in answers] == [200] * 3, answers
found = {"row": rows.tobytes(), "words of the row": words.tobytes()}
found["request id"] = ticket["request_id"].encode()
for party, (pair, (_, answer)) in enumerate(zip(pairs, answers)):
    found[f"share {party} of the row"] = pair[0].tobytes()
    found[f"share {party} of the answer"] = answer[HEADER_BYTES : HEADER_BYTES + 8]
with open(kept, "w") as stream:
    json.dump({name: secret.hex() for name, secret in found.items()}, stream)
"""


class Site:
    """A folder with a trained model, a network, and an authority that signs everybody's certificates."""

    def __init__(self, folder: Path, network: Network) -> None:
        self.folder, self.network = folder, network
        self.authority = Authority.create(folder)
        self.key, line = new_key("clinic")
        (folder / "keys").write_text(line)
        addresses = [network.address(party) for party in PARTIES]
        content = {
            "coordinator": f"{network.address('coordinator')}:{TUNNEL}",
            "parties": [
                {"tunnel": f"{address}:{TUNNEL}", "client_ports": list(CLIENTS)} for address in addresses
            ],
            "operators_differ": True,
        }
        (folder / "deployment.yaml").write_text(yaml.safe_dump(content))

    def launch(self, host: str, *words: str, cwd: Path | None = None) -> subprocess.Popen[str]:
        """Starts Python at a host."""
        return subprocess.Popen(
            [*self.network.at(host), sys.executable, *words],
            cwd=cwd or self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "SSL_CERT_FILE": str(self.authority.path)},
        )

    @contextmanager
    def serve(self, host: str, *words: str) -> Iterator[subprocess.Popen[str]]:
        """Runs a command of `fedpipe encrypted` at a host, with its certificates, and ends it."""
        address = self.network.address(host)
        tunnel, door = self.authority.issue(host), self.authority.issue(address)
        process = self.launch(
            host,
            *("-m", "fedpipe", "encrypted", *words, "--deployment", "deployment.yaml", "--host", address),
            *("--tls-cert", str(door[0]), "--tls-key", str(door[1]), "--tunnel-cert", str(tunnel[0])),
            *("--tunnel-key", str(tunnel[1]), "--tunnel-authority", str(self.authority.path)),
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)

    def ask(self) -> dict[str, bytes]:
        """Asks from the client's host; returns what must not pass in plain."""
        url = f"https://{self.network.address('coordinator')}:{FRONT_END}"
        kept = self.folder / "kept.json"
        words = ("-c", ASK, url, self.key, str(self.authority.path), str(kept))
        asking = self.launch("client", *words, cwd=ROOT)
        out, _ = asking.communicate(timeout=120)
        assert asking.returncode == 0, out
        found = {name: bytes.fromhex(secret) for name, secret in json.loads(kept.read_text()).items()}
        return {**found, "key": self.key.encode(), **self._weights()}

    def _weights(self) -> dict[str, bytes]:
        (model,) = (self.folder / "w" / "runs").glob("*/train/weights.npy")
        weights = np.load(model)[:8]
        words = np.rint(weights.astype(np.float64) * 2**16).astype("<i8")
        return {"weights": weights.tobytes(), "words of the weights": words.tobytes()}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    provisioning.install(provisioning.default_home(), print)
    folder: Path = tmp_path_factory.mktemp("network")
    train(Shell(folder), "breast_cancer", "--set", "training.num_rounds=3")
    network = Network(HOSTS, folder / "wire")
    try:
        yield Site(folder, network)
    finally:
        network.end()


@pytest.fixture(scope="module")
def secrets(site: Site) -> dict[str, bytes]:
    """What a request was made of, by name, after everything has passed the wire."""
    with ExitStack() as stack:
        for index, host in enumerate(PARTIES):
            stack.enter_context(site.serve(host, "party", "--index", str(index), "--folder", host))
        words = ("--model", "breast_cancer", "--workspace", "w", "--port", str(FRONT_END), "--buckets", "1")
        more = ("--api-key-file", "keys", "--party-authority", str(site.authority.path))
        up = stack.enter_context(site.serve("coordinator", "up", *words, *more))
        Running(Shell(site.folder), up).url()
        return site.ask()


def tls_records(stream: bytes) -> list[int]:
    """Returns the content types of the records of a TLS connection, of which the last may be cut short.

    RFC 8446, section 5.1: type, version 3.1 or 3.3, length, at most 2^14 + 256 bytes.
    """
    found, at = [], 0
    while at + 5 <= len(stream):
        kind, major, minor = stream[at : at + 3]
        length = int.from_bytes(stream[at + 3 : at + 5], "big")
        assert (kind in range(20, 24), major, minor in (1, 3), length <= 16640) == (True, 3, True, True)
        found.append(kind)
        at += 5 + length
    return found


def test_all_that_leaves_a_host_is_tls(site: Site, secrets: dict[str, bytes]) -> None:
    assert secrets
    streams = site.network.streams()
    doors = {TUNNEL, *CLIENTS, FRONT_END}
    assert all(doors & {port for _, port in ends} for ends in streams)
    assert all(tls_records(stream)[0] == 22 for stream in streams.values())
    senders = {sender for (sender, _), _ in streams}
    assert senders == {site.network.address(host) for host in HOSTS}
    assert site.network.protocols() <= {(ETH_IPV4, TCP), *NEIGHBORS}


def test_no_share_row_weight_or_key_passes_in_plain(site: Site, secrets: dict[str, bytes]) -> None:
    streams = site.network.streams().values()
    assert sum(map(len, streams)) > 100_000
    assert [name for name, secret in secrets.items() if any(secret in each for each in streams)] == []


def test_what_passes_in_plain_would_have_been_seen(site: Site, secrets: dict[str, bytes]) -> None:
    """The bug planted: a party sends a share as it is."""
    share = secrets["share 1 of the row"]
    site.network.send("party0", "party1", share)
    found = [stream for stream in site.network.streams().values() if share in stream]
    assert len(found) == 1
    with pytest.raises(AssertionError):
        tls_records(found[0])
