"""The command that does a run again, and the settings that it reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedpipe.config import load_config
from simulations.repetition import repetition
from simulations.request import SimulationRequest


@pytest.mark.parametrize("name", ["breast_cancer", "complaints"])
def test_the_settings_ask_for_the_very_same_run(name: str, tmp_path: Path) -> None:
    request = SimulationRequest.make(load_config(name), [], 5)
    again = repetition(request.config, request.data, request.seed)
    file = tmp_path / again.file
    file.write_text(again.settings, encoding="utf-8")
    assert SimulationRequest.make(load_config(str(file)), [], 5).identity() == request.identity()
    assert again.command == "fedpipe simulate --config ./run.yaml --seed 5"


def test_no_folder_and_no_password_travels() -> None:
    data = ["postgresql://jane:secret@host/db#SELECT 1", "/home/jane/a.csv"]
    command = repetition({"name": "x"}, data, 0).command
    assert command == "fedpipe simulate --config ./run.yaml --data DATABASE --data a.csv --seed 0"
