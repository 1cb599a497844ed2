"""A network of one server and three owners, each a host of its own, with everything that passes captured."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fedpipe.federation import pki
from tests.system.federation import NAMES
from tests.system.network import Network, NetworkSite, can_make_networks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not can_make_networks(), reason="needs the right to make network namespaces"),
]

TLS_HANDSHAKE = b"\x16\x03"
NUM_ROUNDS = 12


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NetworkSite]:
    folder = tmp_path_factory.mktemp("network")
    network = Network(("operator", *NAMES), folder / "wire")
    made = NetworkSite(folder, network)
    try:
        made.set_up()
        yield made
    finally:
        made.end()
        network.end()


@pytest.fixture(scope="module")
def outcome(site: NetworkSite) -> dict[str, Any]:
    """What a cycle came to that one owner joined late, and that another lost sight of for a while."""
    site.up()
    nodes = [site.join(name) for name in NAMES[:2]]
    run = site.start(
        *site.cycle_words(f"--set=training.num_rounds={NUM_ROUNDS}", "--set=training.min_cohort=3")
    )
    site.wait_for(lambda: ("ingest", 0) in site.steps("first"), run)
    nodes.append(site.join("third"))
    site.wait_for(lambda: ("train", 2) in site.steps("second"), run)
    site.network.plug("second", connected=False)
    time.sleep(5.0)
    site.network.plug("second", connected=True)
    assert run.wait(240) == 0, site.tails()
    return site.run("federation", "run", "--resume", "--dir=fed", "--json").json


def test_who_joins_late_and_who_was_cut_off_take_part_to_the_end(
    site: NetworkSite, outcome: dict[str, Any]
) -> None:
    assert outcome["num_clients"] == len(NAMES)
    for name in NAMES:
        train = next(row for row in site.budget(name) if row["split"] == "train")
        assert train["num_releases"] == 3 + NUM_ROUNDS


def test_all_that_passes_goes_to_the_fleet_port_in_tls(site: NetworkSite, outcome: dict[str, Any]) -> None:
    assert outcome
    first: dict[tuple[Any, Any], bytes] = {}
    for sender, receiver, payload in site.network.segments():
        first.setdefault((sender, receiver), payload)
    server = (site.network.address("operator"), site.port)

    assert {host for pair in first for host, _ in pair} == {
        site.network.address(h) for h in site.network.hosts
    }
    assert all(server in pair for pair in first)
    assert all(payload.startswith(TLS_HANDSHAKE) for payload in first.values())


def test_no_record_key_or_update_passes_in_plain(site: NetworkSite, outcome: dict[str, Any]) -> None:
    assert outcome
    wanted = secrets(site)
    wire = b"".join(payload for _, _, payload in site.network.segments())
    assert len(wire) > 100_000
    assert [name for name, secret in wanted.items() if secret in wire] == []


def test_what_passes_in_plain_would_have_been_seen(site: NetworkSite, outcome: dict[str, Any]) -> None:
    """The bug planted: one row sent as it is."""
    assert outcome
    row = secrets(site)["row of first"]
    site.network.send("first", "operator", row)

    assert row in b"".join(payload for _, _, payload in site.network.segments())


def secrets(site: NetworkSite) -> dict[str, bytes]:
    """Returns what must not pass: of every owner a row, features as numbers and keys; and weights."""
    found = {}
    for name in NAMES:
        home, records = site.folder / name, site.folder / "data" / name / "records.csv"
        row = records.read_text().splitlines()[1]
        numbers = np.array([float(cell) for cell in row.split(",")[:3]])
        record_key = (home / "record.key").read_text().strip()
        node_key = pki.read_private_key(home / "node-key.pem").private_numbers().private_value
        ledger_key = load_pem_private_key((home / "ledger.sqlite.key").read_bytes(), password=None)
        assert isinstance(ledger_key, Ed25519PrivateKey)
        found |= {
            f"row of {name}": row.encode(),
            f"float64 of {name}": numbers.tobytes(),
            f"float32 of {name}": numbers.astype(np.float32).tobytes(),
            f"record key of {name}": record_key.encode(),
            f"bytes of the record key of {name}": bytes.fromhex(record_key),
            f"node key of {name}": node_key.to_bytes(48, "big"),
            f"ledger key of {name}": ledger_key.private_bytes_raw(),
        }
    authority = pki.read_private_key(site.folder / "fed" / "ca-key.pem")
    found["authority's key"] = authority.private_numbers().private_value.to_bytes(48, "big")
    weights = np.load(next((site.folder / "fed" / "workspace" / "runs").glob("*/train/weights.npy")))
    found["weights"] = weights[:16].tobytes()
    found["weights in base64"] = base64.b64encode(weights[:15].tobytes())
    return found
