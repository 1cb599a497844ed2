"""Parties that have grown are replaced under load, and nobody notices."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from fedpipe.encrypted import provisioning
from tests.system.conftest import Shell
from tests.system.encrypted_service import SECONDS, rows_of, train, up

pytestmark = pytest.mark.slow


def test_parties_that_have_grown_are_replaced_without_a_failed_request(tmp_path: Path) -> None:
    provisioning.install(provisioning.default_home(), print)
    shell = Shell(tmp_path)
    train(shell, "breast_cancer", "--set", "training.num_rounds=3")
    words = ("--operator-sees-rows", "--buckets", "1", "--max-growth-mib", "0", "--deadline-seconds", "5")
    # One attempt: a second one would hide a failure of the first.
    with up(shell, "breast_cancer", *words) as service, service.active(attempts=1) as client:
        rows = rows_of(client, 1)
        expected = client.predict_encoded(rows).probabilities
        first, deadline = service.state["started_at"], time.monotonic() + SECONDS
        while service.state["started_at"] == first:
            assert np.abs(client.predict_encoded(rows).probabilities - expected).max() < 1e-3
            assert time.monotonic() < deadline
        assert np.abs(client.predict_encoded(rows).probabilities - expected).max() < 1e-3
        assert service.state["num_recoveries"] == 0
