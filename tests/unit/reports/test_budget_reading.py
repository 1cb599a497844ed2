from __future__ import annotations

from pathlib import Path

import pytest

from fedpipe.errors import ConfigError
from fedpipe.ledger import Ledger
from fedpipe.reports.budget_reading import read_report


def test_a_mistyped_span_is_told_and_not_reported_as_unused(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite"):
        pass

    with pytest.raises(ConfigError, match=r"such as .*2026-Q1.*, found '2014Q2'"):
        read_report([tmp_path / "ledger.sqlite"], spans=["2014-Q1", "2014Q2"])
    assert read_report([tmp_path / "ledger.sqlite"], spans=["2014-Q1", "undated"]).blocks == ()
