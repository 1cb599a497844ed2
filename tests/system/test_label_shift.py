"""A shift of labels from one month to the next, from a CSV file to the trained model."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow

CONFIG = """
name: shifting
schema:
  label: {name: ill, classes: {"no": [n], "yes": [y]}}
  key: record_id
  time: {column: received, window: month}
  columns:
    age: {type: numeric, minimum: 0, maximum: 100}
    town: {type: categorical, vocabulary: [ulm, trier]}
federation: {num_clients: 3}
training: {num_rounds: 8}
model: {name: shifting}
"""


def write(folder: Path, months: dict[str, float], size: int) -> Path:
    """Writes `size` records a month; a month's share of ill people is exact."""
    generator = np.random.default_rng(7)
    path = folder / "records.csv"
    with path.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["Record ID", "Received", "Age", "Town", "Ill"])
        for month, share in months.items():
            for number in range(size):
                ill = number < share * size
                day, age = generator.integers(1, 28), generator.normal(60 if ill else 40, 15)
                town = "ulm" if generator.random() < 0.5 else "trier"
                date = f"{month[5:]}/{day:02d}/{month[:4]}" if number % 2 else f"{month}-{day:02d}T12:00:00Z"
                rows.writerow(
                    [f"{month}-{number}", date, int(np.clip(age, 0, 100)), town, "y" if ill else "n"]
                )
    return path


def run(shell: Any, folder: Path, months: dict[str, float], size: int, *settings: str) -> Any:
    (folder / "shifting.yaml").write_text(CONFIG)
    overrides = [word for setting in settings for word in ("--set", setting)]
    return shell.run(
        *("--config", str(folder / "shifting.yaml"), "--data", str(write(folder, months, size))),
        *("--workspace", str(folder / "workspace"), "--json", "--quiet", *overrides),
    )


def artifact(folder: Path, name: str) -> Any:
    [path] = (folder / "workspace" / "runs").glob(f"*/*/{name}.json")
    return json.loads(path.read_text())


def alerts(warnings: Iterable[str]) -> list[str]:
    return [warning for warning in warnings if "the share of" in warning]


@pytest.mark.parametrize("settings", [(), ("privacy.enabled=false",)], ids=["epsilon 8", "exact"])
def test_from_even_to_seventy_thirty_is_answered(
    tmp_path: Path, shell: Any, settings: tuple[str, ...]
) -> None:
    months, size = {"2026-09": 0.5, "2026-10": 0.7}, 100 if settings else 1000
    done = run(shell, tmp_path, months, size, "validation.on_label_shift=reweight", *settings)
    [alert] = alerts(done.json["warnings"])
    assert "in 2026-09" in alert
    assert "in 2026-10" in alert
    balance = artifact(tmp_path, "balance")
    assert (balance["answer"], balance["spans"]) == ("reweight", ["2026-09", "2026-10"])
    # The newest month is the target: there nothing weighs less, in the one before "no" does.
    assert balance["weights"][0] == pytest.approx([3 / 7, 1.0], abs=0.1)
    assert balance["weights"][1] == [1.0, 1.0]
    statistics = artifact(tmp_path, "statistics")
    assert np.array(list(statistics["label_counts"].values())).shape == (3, 2, 2, 3)
    assert done.json["simulation_only"]["exact_metrics"]["auc"] > 0.7
    commitments = artifact(tmp_path, "model_version")["certificate"]["commitments"]
    assert {(c["client"], c["span"]) for c in commitments} == {
        (f"client-{n}", span) for n in (1, 2, 3) for span in ("2026-09", "2026-10")
    }


def test_a_small_change_is_no_alert(tmp_path: Path, shell: Any) -> None:
    months = {"2026-09": 0.5, "2026-10": 0.52}
    done = run(shell, tmp_path, months, 1000, "validation.on_label_shift=stop")
    assert alerts(done.json["warnings"]) == []
    assert artifact(tmp_path, "balance")["answer"] == "none"


def test_a_shift_can_stop_a_run_before_training(tmp_path: Path, shell: Any) -> None:
    months = {"2026-09": 0.5, "2026-10": 0.7}
    done = run(shell, tmp_path, months, 1000, "validation.on_label_shift=stop")
    assert done.code == 2
    assert "the share of" in done.err
    assert "Nothing was spent on training" in done.err
    assert not list((tmp_path / "workspace" / "runs").glob("*/train/*"))


def test_a_window_leaves_the_other_months_alone(tmp_path: Path, shell: Any) -> None:
    from fedpipe.ledger import Ledger

    months = {"2026-08": 0.5, "2026-09": 0.5, "2026-10": 0.7}
    done = run(shell, tmp_path, months, 600, "spans.last=1", "spans.until=2026-09")
    examples = done.json["simulation_only"]["num_examples"]
    assert examples["total"] == 600
    with Ledger(tmp_path / "workspace" / "ledger.sqlite") as ledger:
        assert {spending.block.span for spending in ledger.spending()} == {"2026-09"}
