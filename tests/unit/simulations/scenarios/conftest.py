"""A short story with an event of every kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from simulations.scenarios.settings import YEAR, Scenario, load_scenario


@pytest.fixture
def make_scenario() -> Callable[..., Scenario]:
    """Returns six weeks at four clients, with the given events."""

    def make(*events: dict[str, Any], **changes: Any) -> Scenario:
        values = {"weeks": 6, "window": 2, "num_clients": 4, "records_per_week": 200, "events": events}
        return load_scenario(YEAR, **(values | changes))

    return make
