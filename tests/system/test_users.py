"""A whole run whose unit is the user, who has several records in several months."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow

CONFIG = """
name: visits
schema:
  label: {name: ill, classes: {"no": [n], "yes": [y]}}
  key: visit
  user: patient
  client_column: clinic
  time: {column: received, window: month}
  columns:
    age: {type: numeric, minimum: 0, maximum: 100}
    town: {type: categorical, vocabulary: [ulm, trier]}
federation: {partition: column}
training: {num_rounds: 8, sampling_probability: 0.2}
analyze: {slices: [town]}
privacy: {unit: {column: patient, max_records: 3}, lifetime_epsilon: 20}
model: {name: visits}
"""
EPSILON = 8.0


def write(folder: Path, num_patients: int = 3000) -> Path:
    """Writes one to six visits of each patient; the frail are ill more often."""
    generator = np.random.default_rng(3)
    rows = ["visit,patient,received,age,town,ill,clinic"]
    for patient in range(num_patients):
        frailty = generator.normal()
        for _ in range(generator.integers(1, 7)):
            age = int(np.clip(50 + 15 * frailty + 5 * generator.normal(), 1, 99))
            ill = "y" if generator.random() < 1 / (1 + np.exp(-1.5 * frailty)) else "n"
            town, month = generator.choice(["ulm", "trier"]), generator.integers(1, 4)
            rows.append(f"v{len(rows)},p{patient},2026-0{month}-15,{age},{town},{ill},clinic {patient % 2}")
    path = folder / "visits.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("users")


@pytest.fixture(scope="module")
def summary(shell: Any, folder: Path) -> Any:
    (folder / "visits.yaml").write_text(CONFIG)
    return shell.run(
        *("--config", str(folder / "visits.yaml"), "--data", str(write(folder))),
        *("--workspace", str(folder / "workspace"), "--json", "--quiet"),
    ).json


def test_the_guarantee_names_users_and_what_bounds_them(summary: Any) -> None:
    privacy = summary["privacy"]
    assert privacy["unit"] == "user"
    assert privacy["user"] == {"column": "patient", "max_records": 3}
    assert 0.98 * EPSILON < privacy["epsilon"] <= EPSILON
    report = Path(summary["paths"]["report"]).read_text()
    for words in (
        "any one user of a client",
        "told apart by patient, at most 3 records of each in a release",
        "a user adds at most 3 to the cells",
        "draws every user",
        "summed gradient of its records",
    ):
        assert words in report


def test_the_model_is_of_use(summary: Any) -> None:
    assert summary["simulation_only"]["exact_metrics"]["auc"] > 0.7


def test_a_stranger_s_script_recomputes_the_epsilon_for_users(
    summary: Any, shell: Any, tmp_path: Path
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "certificate.md").read_text()
    script = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert script is not None
    (tmp_path / "check_certificate.py").write_text(script[1])
    public = (Path(summary["paths"]["workspace"]) / "signing.pub").read_text().strip()
    done = shell.python(str(tmp_path / "check_certificate.py"), summary["paths"]["certificate"], public)
    assert done.code == 0, done.err
    epsilon, unit = done.out.split(maxsplit=1)
    assert float(epsilon) == pytest.approx(summary["privacy"]["epsilon"], rel=1e-3)
    assert unit.startswith("for each user")


def test_lifetime_budgets_are_added_up_over_the_spans_of_a_run(summary: Any) -> None:
    """Three months, each with a budget of 20: at the one order of all blocks divergences add up."""
    certificate = json.loads(Path(summary["paths"]["certificate"]).read_text())
    assert {each["span"] for each in certificate["commitments"]} == {"2026-01", "2026-02", "2026-03"}
    report = Path(summary["paths"]["report"]).read_text()
    assert "a user who has some in all spans of this run has a budget in each" in report


def test_records_of_the_same_owners_are_refused_as_the_unit_afterwards(
    summary: Any, shell: Any, folder: Path
) -> None:
    done = shell.run(
        *("--config", str(folder / "visits.yaml"), "--data", str(folder / "visits.csv")),
        *("--workspace", str(folder / "workspace"), "--quiet", "--set", "privacy.unit=record"),
    )
    assert done.code == 2
    assert "Expected events of unit user" in done.err
    assert done.err.count("\n") == 1
