"""Every shipped configuration, a drafted one and a deep model, each from data to a served model."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpipe.config import config_names

pytestmark = pytest.mark.slow

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
FASHION = Path("/usr/share/datasets/fashion-mnist")
BARE_MODEL = """
import json, sys
sys.modules["fedpipe"] = None
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
serve = model.signatures["serving_default"]
names = list(serve.structured_input_signature[1])
cells = {name: tf.constant([[""], ["1"], ["never seen before \\U0001f642"]]) for name in names}
answer = serve(**cells)["probability"].numpy()
print(json.dumps({"names": names, "answer": answer.tolist(), "classes": len(model.class_names.numpy())}))
"""
RUNS: dict[str, tuple[str, ...]] = {
    "complaints": ("data.limit=3000", "training.num_rounds=8"),
    "heart": ("training.num_rounds=8",),
    "fashion_mnist": ("data.limit=600", "training.num_rounds=2"),
    "digits": ("training.num_rounds=8",),
    "breast_cancer": ("training.num_rounds=8",),
}
DEEP = (
    *("model.type=wide_and_deep", "model.hidden_units=[8, 4]", "data.limit=2000", "training.num_rounds=3"),
    *("training.local_steps=2", "training.kernel=tensorflow_privacy"),
)


def run(shell: Any, folder: Path, config: str, settings: tuple[str, ...], *words: str) -> dict[str, Any]:
    overrides = [word for setting in settings for word in ("--set", setting)]
    found: dict[str, Any] = shell.run(
        *("--config", config, "--workspace", str(folder), "--json", "--quiet", *words, *overrides)
    ).json
    return found


def check(shell: Any, summary: dict[str, Any], num_classes: int, columns: set[str]) -> None:
    """Checks what must hold of every complete run, and asks its model about cells that nobody expects."""
    assert summary["status"] == "COMPLETE"
    assert summary["privacy"]["status"] == "private"
    assert 0 < summary["privacy"]["epsilon"] <= 8
    assert summary["simulation_only"]["num_examples"]["train"] > 0
    for path in summary["paths"].values():
        assert Path(path).exists()
    answered = shell.python("-c", BARE_MODEL, summary["paths"]["model"]).json
    assert set(answered["names"]) == columns
    assert answered["classes"] == num_classes
    answer = np.array(answered["answer"])
    assert answer.shape == (3, 1 if num_classes == 2 else num_classes)
    assert np.isfinite(answer).all()
    assert ((answer >= 0) & (answer <= 1)).all()
    if num_classes > 2:
        np.testing.assert_allclose(answer.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", config_names())
def test_a_shipped_configuration_runs(name: str, shell: Any, tmp_path: Path) -> None:
    from fedpipe.config import load_config

    words: tuple[str, ...] = ()
    if name == "fashion_mnist" and not FASHION.is_dir():
        pytest.skip("needs Debian's dataset-fashion-mnist")
    if name == "heart":
        if not SHARED.is_dir():
            pytest.skip("the real data is not beside this checkout (../shared/data)")
        words = ("--data", str(SHARED / "heart"))
    summary = run(shell, tmp_path / "w", name, RUNS[name], *words)
    schema = load_config(name).data_schema
    check(shell, summary, schema.num_classes, set(schema.columns))
    assert summary["name"] == name
    assert summary["num_clients"] == {"complaints": 20, "heart": 4}.get(name, 10)


def test_a_wide_and_deep_model_runs_with_the_other_kernel(shell: Any, tmp_path: Path) -> None:
    from fedpipe.config import load_config

    summary = run(shell, tmp_path / "w", "complaints", DEEP)
    # Under so much noise every hidden unit may be dead: that the text matters is for the unit tests.
    check(shell, summary, 2, set(load_config("complaints").data_schema.columns))


def test_a_drafted_configuration_runs_unchanged(shell: Any, tmp_path: Path) -> None:
    source = tmp_path / "visits to the ward.csv"
    generator = np.random.default_rng(0)
    with source.open("w", newline="", encoding="utf-16") as stream:
        rows = csv.writer(stream)
        rows.writerow(["", "Visit ID", "Ward: name", "Age?", "class", "Notes", "constant", "Back again?"])
        for n in range(400):
            age = int(generator.integers(20, 90))
            notes = (
                f'said: "{"worse" if age > 60 else "better"} than\nlast time", no {n}; ' + "and so on " * 5
            )
            again = "Yes" if generator.random() < age / 100 - 0.1 else "No"
            rows.writerow([n, f"v{n}", f"Ward {n % 4}", age, n % 3, notes, "x", again])
    drafted = tmp_path / "ward.yaml"
    words = ("--from", str(source), "--label", "Back again?", "--client-column", "ward name")
    done = shell.run("init", *words, "--output", str(drafted), module="fedpipe")
    assert done.code == 0, done.err
    settings = ("training.num_rounds=3",)
    summary = run(shell, tmp_path / "w", str(drafted), settings, "--data", str(source))
    check(shell, summary, 2, {"age", "column_class", "notes"})
    assert summary["num_clients"] == 4
    assert json.dumps(summary).count("v17") == 0


def test_a_run_whose_preprocessing_asked_nobody_is_answered_from_its_results(
    shell: Any, tmp_path: Path
) -> None:
    """Its ledger has no release of that step, and forgot nothing."""
    settings = ("training.num_rounds=2", "federation.num_clients=2")
    first, again = (run(shell, tmp_path / "w", "digits", settings) for _ in range(2))
    assert again["model_version"] == first["model_version"]
    assert again["metrics"] == first["metrics"]
