"""What docs/encrypted-client.md says is enough to write a client, and true."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpipe.encoding.hashing import hash_bucket
from fedpipe.encrypted.client import probabilities
from fedpipe.encrypted.shares import decode_fixed, encode_fixed, reconstruct
from fedpipe.encrypted.transform import read_transform
from fedpipe.encrypted.wire import decode_pair, encode_pair
from tests.unit.encrypted.service import Service
from tests.unit.encrypted.test_client import CARD, ROWS, WEIGHTS, expected

PAGE = (Path(__file__).parents[3] / "docs" / "encrypted-client.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


VECTORS: dict[str, Any] = json.loads(blocks("json")[-1])


@pytest.fixture
def service() -> Iterator[Service]:
    running = Service(card=dict(CARD), weights=WEIGHTS, bias=np.array([[0]]))
    yield running
    running.close()


def test_client_of_the_page_works(service: Service) -> None:
    names: dict[str, Any] = {}
    exec(blocks("python")[1], names)
    cells = {name: ["" if row[name] is None else str(row[name]) for row in ROWS] for name in ("age", "state")}
    logits = names["ask"](service.url, read_transform(CARD["transform"]).encode(cells))
    np.testing.assert_allclose(1 / (1 + np.exp(-logits[:, 0])), expected(), atol=1e-4)


def test_example_with_our_client_works(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    exec(blocks("python")[0], {"url": service.url, "key": None})
    assert "illness 3" in capsys.readouterr().out


def test_cells_of_the_page_make_its_inputs() -> None:
    found = read_transform(VECTORS["transform"]).encode(VECTORS["cells"])
    np.testing.assert_allclose(found, VECTORS["inputs"], rtol=1e-7)
    assert {text: hash_bucket(text, 1000) for text in VECTORS["hashes_modulo_1000"]} == VECTORS[
        "hashes_modulo_1000"
    ]


def test_shares_of_the_page_are_its_pairs() -> None:
    words = encode_fixed(VECTORS["values"], max_magnitude=10)
    assert words.tolist() == VECTORS["words"]
    s0, s1, s2 = (np.array(share, dtype=np.int64) for share in VECTORS["shares"])
    assert [encode_pair(pair).hex() for pair in ((s0, s1), (s1, s2), (s2, s0))] == VECTORS["pairs"]
    pairs = [decode_pair(bytes.fromhex(pair), (1, 2)) for pair in VECTORS["pairs"]]
    assert decode_fixed(reconstruct(pairs)).tolist() == VECTORS["values"]


def test_logits_of_the_page_are_its_probabilities() -> None:
    logits = np.array(VECTORS["logits"])
    np.testing.assert_allclose(probabilities(logits)[:, 1], VECTORS["sigmoid"], rtol=1e-12)
    np.testing.assert_allclose(probabilities(logits.T)[0], VECTORS["softmax_of_both"], rtol=1e-12)
