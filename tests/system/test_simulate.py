"""One workspace through its life: three runs, two of them cut short, and a fourth that nobody can afford."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_metadata
import numpy as np
import pandas as pd
import pytest
from ml_metadata import proto

from fedpipe.ledger import Ledger
from fedpipe.ledger.certificate import Certificate
from fedpipe.pipeline import MetadataReader

pytestmark = pytest.mark.slow

NUM_CLIENTS, NUM_ROUNDS = 3, 60
NUM_RELEASES = NUM_CLIENTS * (NUM_ROUNDS + 3)  # validate, preprocess, analyze
STEPS = ["ingest", "statistics", "validate", "preprocess", "train", "analyze", "register", "deploy"]
METRICS = {"auc", "average_precision", "log_loss", "brier", "accuracy", "majority_accuracy"}
SETTINGS = ("--set", f"federation.num_clients={NUM_CLIENTS}", "--set", f"training.num_rounds={NUM_ROUNDS}")

BARE_MODEL = """
import json, sys
sys.modules["fedpipe"] = None
import tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
rows = json.load(open(sys.argv[2]))
answer = serve(**{name: tf.constant([[row[name]] for row in rows]) for name in rows[0]})
print(json.dumps(answer["probability"].numpy()[:, 0].tolist()))
"""


@dataclass(frozen=True, kw_only=True)
class Life:
    """A workspace after three runs, and what was seen on the way."""

    workspace: Path
    first: dict[str, Any]
    killed: dict[str, Any]
    interrupted: dict[str, Any]
    before_kill: list[float]
    after_kill: list[float]
    released_at_kill: int
    rounds_at_kill: int
    interruption: Any
    second_process: Any
    fourth: Any
    again: dict[str, Any]

    @property
    def summaries(self) -> list[dict[str, Any]]:
        return [self.first, self.killed, self.interrupted]


def held(workspace: Path) -> list[float]:
    with Ledger(workspace / "ledger.sqlite") as ledger:
        return [spending.held for spending in ledger.spending()]


def num_releases(workspace: Path, run_id: str) -> int:
    with Ledger(workspace / "ledger.sqlite") as ledger:
        return ledger.num_releases(run_id)


def checkpoints(workspace: Path) -> set[Path]:
    return set(workspace.glob("runs/*/train/checkpoint.npz"))


def rounds_in(checkpoint: Path) -> int:
    with np.load(checkpoint) as stored:
        return int(json.loads(str(stored["head"]))["server_round"])


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory, shell: Any) -> Life:
    workspace = tmp_path_factory.mktemp("life") / "workspace"
    words = ("--workspace", str(workspace), "--config", "breast_cancer", *SETTINGS)
    first = shell.run(*words, "--json").json

    earlier, before_kill = checkpoints(workspace), held(workspace)
    process = shell.launch(*words, "--fresh")
    shell.wait_for(lambda: bool(checkpoints(workspace) - earlier), process)
    process.send_signal(signal.SIGKILL)
    assert shell.finish(process).code == -signal.SIGKILL
    [checkpoint] = checkpoints(workspace) - earlier
    after_kill, rounds_at_kill = held(workspace), rounds_in(checkpoint)
    released_at_kill = num_releases(workspace, checkpoint.parents[1].name)
    killed = shell.run("--workspace", str(workspace), "--resume", "--json").json

    earlier = checkpoints(workspace)
    process = shell.launch(*words, "--quiet", "--json", "--fresh")
    shell.wait_for(lambda: bool(checkpoints(workspace) - earlier), process)
    second_process = shell.run("--workspace", str(workspace), "--resume", "--json", "--quiet")
    process.send_signal(signal.SIGINT)
    interruption = shell.finish(process)
    interrupted = shell.run(*words, "--json", "--quiet").json  # goes on by itself

    return Life(
        workspace=workspace,
        first=first,
        killed=killed,
        interrupted=interrupted,
        before_kill=before_kill,
        after_kill=after_kill,
        released_at_kill=released_at_kill,
        rounds_at_kill=rounds_at_kill,
        interruption=interruption,
        second_process=second_process,
        fourth=shell.run(*words, "--json", "--quiet", "--fresh"),
        again=shell.run(*words, "--json", "--set", "federation.engine=in-process").json,
    )


# --- what a run says ---------------------------------------------------------------------------


def test_the_summary_has_exactly_the_documented_keys(life: Life) -> None:
    for summary in life.summaries:
        assert set(summary) == {
            "run_id",
            "status",
            "name",
            "model_version",
            "privacy",
            "metrics",
            "better_than_chance",
            "num_clients",
            "rounds",
            "warnings",
            "simulation_only",
            "paths",
            "timings_seconds",
            "signed_by",
            "budgets",
            "reused",
            "resumed",
        }
        assert set(summary["privacy"]) == {
            "status",
            "unit",
            "user",
            "neighboring_relation",
            "epsilon",
            "delta",
            "accountant",
            "randomness",
            "arithmetic",
        }
        assert set(summary["metrics"]) == METRICS
        assert set(summary["simulation_only"]) == {"exact_metrics", "baseline", "num_examples"}
        assert set(summary["simulation_only"]["exact_metrics"]) == METRICS
        assert set(summary["paths"]) == {"report", "model", "certificate", "workspace"}
        assert list(summary["timings_seconds"]) == STEPS


def test_the_summary_says_what_was_run(life: Life) -> None:
    assert [summary["model_version"] for summary in life.summaries] == [
        "breast_cancer:1",
        "breast_cancer:2",
        "breast_cancer:3",
    ]
    for summary in life.summaries:
        assert summary["status"] == "COMPLETE"
        assert (summary["num_clients"], summary["rounds"]) == (NUM_CLIENTS, NUM_ROUNDS)
        assert summary["simulation_only"]["num_examples"]["total"] == 569
        assert all(Path(path).exists() for path in summary["paths"].values())


def test_the_guarantee_is_stated_in_full(life: Life) -> None:
    privacy = life.first["privacy"]
    assert (privacy["status"], privacy["unit"]) == ("private", "record")
    assert privacy["neighboring_relation"] == "add_or_remove_one"
    assert 7.9 < privacy["epsilon"] <= 8.0
    assert privacy["delta"] == 1e-5
    assert privacy["randomness"].startswith("secure")


def test_private_estimates_come_with_intervals_that_hold_the_exact_figures(life: Life) -> None:
    """Mostly: 95 % each."""
    exact = life.first["simulation_only"]["exact_metrics"]
    inside = 0
    for name, estimate in life.first["metrics"].items():
        assert estimate["lower"] <= estimate["estimate"] <= estimate["upper"]
        inside += estimate["lower"] <= exact[name] <= estimate["upper"]
    assert inside >= len(METRICS) - 2


def test_the_model_is_of_use(life: Life) -> None:
    for summary in life.summaries:
        assert summary["simulation_only"]["exact_metrics"]["auc"] > 0.8
        assert summary["simulation_only"]["baseline"]["auc"] > 0.95


def test_secure_randomness_never_gives_the_same_model_twice(life: Life) -> None:
    weights = {
        (
            Path(summary["paths"]["workspace"]) / "runs" / summary["run_id"] / "train" / "weights.npy"
        ).read_bytes()
        for summary in life.summaries
    }
    assert len(weights) == 3


# --- what others can check ---------------------------------------------------------------------


def test_a_stranger_s_script_verifies_the_certificate(life: Life, shell: Any, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "certificate.md").read_text()
    script = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert script is not None
    (tmp_path / "check_certificate.py").write_text(script[1])
    public = (Path(life.first["paths"]["workspace"]) / "signing.pub").read_text().strip()
    done = shell.python(str(tmp_path / "check_certificate.py"), life.first["paths"]["certificate"], public)
    assert done.code == 0, done.err
    epsilon, unit = done.out.split(maxsplit=1)
    assert float(epsilon) == pytest.approx(life.first["privacy"]["epsilon"], rel=1e-3)
    assert unit == "for each record\n"


def test_every_certificate_is_verified_and_an_edited_one_is_not(
    life: Life, shell: Any, tmp_path: Path
) -> None:
    for summary in life.summaries:
        done = shell.run(
            "budget", "verify", summary["paths"]["certificate"], "--code", "--json", module="fedpipe"
        )
        assert done.code == 0, done.out
        found = json.loads(done.out)
        assert found["differences"] == []
        assert found["recomputed_epsilon"] == pytest.approx(summary["privacy"]["epsilon"], rel=1e-9)
        assert len(found["attested_by"]) == NUM_CLIENTS
    text = Path(life.first["paths"]["certificate"]).read_text()
    (tmp_path / "edited.json").write_text(text.replace('"count": 1,', '"count": 2,', 1))
    public = str(Path(life.first["paths"]["workspace"]) / "signing.pub")
    done = shell.run("budget", "verify", str(tmp_path / "edited.json"), "--key", public, module="fedpipe")
    assert done.code == 2
    assert "NOT VERIFIED" in done.out
    assert "the event of labels is not what the plan charges" in done.out
    done = shell.run(
        "budget",
        "verify",
        life.first["paths"]["certificate"],
        "--client-key",
        f"client-1={public}",
        module="fedpipe",
    )
    assert done.code == 2
    assert "client client-1: its attestation is signed by" in done.out


def test_certificates_state_the_whole_run(life: Life) -> None:
    for summary in life.summaries:
        certificate = Certificate.model_validate_json(Path(summary["paths"]["certificate"]).read_bytes())
        assert certificate.run_id == summary["run_id"]
        assert certificate.privacy.model_dump() == summary["privacy"]
        assert {commitment.client for commitment in certificate.commitments} == {
            f"client-{number}" for number in range(1, NUM_CLIENTS + 1)
        }
        assert certificate.dropouts == ()
        assert [block.split for block in certificate.blocks] == ["train", "eval"]


def test_commitments_are_the_same_for_the_same_records(life: Life) -> None:
    found = [
        Certificate.model_validate_json(Path(summary["paths"]["certificate"]).read_bytes()).commitments
        for summary in life.summaries
    ]
    assert found[0] == found[1] == found[2]


def _frame() -> pd.DataFrame:
    from fedpipe.config import load_config
    from simulations.datasets import load_dataset

    columns = list(load_config("breast_cancer").data_schema.columns)
    return load_dataset("sklearn:breast_cancer")[columns].head(40)


def test_the_model_answers_in_a_process_that_has_no_fedpipe(life: Life, shell: Any, tmp_path: Path) -> None:
    rows = [*_frame().to_dict("records"), dict.fromkeys(_frame().columns, "")]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    done = shell.python("-c", BARE_MODEL, life.first["paths"]["model"], str(tmp_path / "rows.json"))
    assert done.code == 0, done.err
    scores = json.loads(done.out)
    assert len(scores) == 41
    assert all(0 <= score <= 1 for score in scores)
    (tmp_path / "rows.csv").write_text(_frame().to_csv(index=False))
    predicted = shell.run(
        *("predict", "--model", "breast_cancer:1", "--input", str(tmp_path / "rows.csv")),
        *("--workspace", str(life.workspace)),
        module="fedpipe",
    )
    assert predicted.code == 0, predicted.err
    table = list(csv.reader(predicted.out.splitlines()))
    assert [float(row[0]) for row in table] == pytest.approx(scores[:40], abs=1e-5)
    assert {row[1] for row in table} <= {"benign", "malignant"}


def test_predictions_as_json_for_json_lines(life: Life, shell: Any, tmp_path: Path) -> None:
    rows = _frame().to_dict("records")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = shell.run(
        *("predict", "--model", "breast_cancer", "--input", str(tmp_path / "rows.jsonl"), "--json"),
        *("--workspace", str(life.workspace)),
        module="fedpipe",
    )
    assert done.code == 0, done.err
    found = [json.loads(line) for line in done.out.splitlines()]
    assert len(found) == 40
    assert all(set(row) == {"probability", "prediction"} for row in found)


# --- what is recorded --------------------------------------------------------------------------


def test_every_artifact_has_an_execution_that_made_it(life: Life) -> None:
    """As a stranger's tool would read it: through ML Metadata alone."""
    config = proto.ConnectionConfig()
    config.sqlite.filename_uri = str(life.workspace / "metadata.sqlite")
    store = ml_metadata.MetadataStore(config)
    live = [artifact for artifact in store.get_artifacts() if artifact.state == proto.Artifact.LIVE]
    artifacts = {artifact.id: artifact for artifact in live}
    assert len(artifacts) == 3 * 9 + 2  # the last two runs looked at the spans again
    events = store.get_events_by_artifact_ids(list(artifacts))
    made = {event.artifact_id for event in events if event.type == proto.Event.OUTPUT}
    assert made == set(artifacts)
    assert all((life.workspace / artifact.uri).is_file() for artifact in artifacts.values())
    used = {event.artifact_id for event in events if event.type == proto.Event.INPUT}
    kinds = {artifact.type for number, artifact in artifacts.items() if number not in used}
    # A run that goes on looks at the spans again, and may need them no more.
    assert kinds - {"Spans"} == {"Anomalies", "PushedModel"}


def test_every_run_is_complete_with_one_claim(life: Life) -> None:
    runs = MetadataReader.open_existing(life.workspace / "metadata.sqlite").runs()
    assert [run.status for run in runs] == ["COMPLETE"] * 3 + ["FAILED", "COMPLETE"]
    assert [run.run_id for run in runs[:3]] == [summary["run_id"] for summary in life.summaries]
    assert all(run.claim_id == run.run_id for run in runs)
    assert all(run.epsilon == life.first["privacy"]["epsilon"] for run in runs)


def test_the_ledger_counts_exactly_what_was_planned(life: Life) -> None:
    for summary in life.summaries:
        assert num_releases(life.workspace, summary["run_id"]) == NUM_RELEASES


def test_lists_and_details_of_runs_and_models(life: Life, shell: Any) -> None:
    def show(*words: str) -> Any:
        done = shell.run(*words, "--workspace", str(life.workspace), module="fedpipe")
        assert (done.code, done.err) == (0, "")
        return done.out

    runs = json.loads(show("run", "list", "--json"))
    assert [run["status"] for run in runs] == ["COMPLETE"] * 3 + ["FAILED", "COMPLETE"]
    shown = json.loads(show("run", "show", life.killed["run_id"], "--json"))
    assert [step["step"] for step in shown["steps"]] == STEPS
    how = {step["step"]: step["how"] for step in shown["steps"]}
    assert (how["train"], how["analyze"]) == ("resumed", "ran")
    assert shown["releases"] == NUM_RELEASES
    models = json.loads(show("model", "list", "--json"))
    assert [(model["model"], model["version"], model["status"]) for model in models] == [
        ("breast_cancer", number, "private") for number in (1, 2, 3)
    ]
    assert show("model", "list").count("\n") == 4
    assert json.loads(show("model", "show", "breast_cancer:2"))["version"] == 2


def test_what_holds_data_is_closed_to_others(life: Life) -> None:
    def wrong(paths: Iterable[Path]) -> list[str]:
        return [
            f"{path} {stat.S_IMODE(path.stat().st_mode):o}"
            for path in paths
            if stat.S_IMODE(path.stat().st_mode) != (0o700 if path.is_dir() else 0o600)
        ]

    root = life.workspace
    places = [root, *root.iterdir(), *(root / "runs").rglob("*"), *(root / "population").rglob("*")]
    assert wrong(places) == []


# --- what happens when it is cut short ---------------------------------------------------------


def test_a_killed_run_is_never_undercounted(life: Life) -> None:
    """What it reserved stays, and every round that the coordinator has was counted."""
    assert life.released_at_kill >= NUM_CLIENTS * (2 + life.rounds_at_kill)
    assert 1 <= life.rounds_at_kill < NUM_ROUNDS
    assert all(now > before for before, now in zip(life.before_kill, life.after_kill, strict=True))
    final = [2 * value for value in life.before_kill]
    assert life.after_kill == pytest.approx(final)


def test_an_interrupted_run_says_so_in_one_line(life: Life) -> None:
    assert (life.interruption.code, life.interruption.out) == (130, "")
    assert life.interruption.err == "fedpipe: interrupted. Nothing is lost: --resume goes on with a run.\n"


def test_a_second_process_is_kept_out(life: Life) -> None:
    assert (life.second_process.code, life.second_process.out) == (2, "")
    assert "in use by process" in life.second_process.err
    assert life.second_process.err.count("\n") == 1


def test_a_fourth_run_is_refused_in_figures(life: Life) -> None:
    assert (life.fourth.code, life.fourth.out) == (3, "")
    assert "Traceback" not in life.fourth.err
    for word in ("client-1/undated/", "Requested:", "remaining:", "difference:", "Nothing was changed"):
        assert word in life.fourth.err
    for way in ("no setting with privacy.epsilon of", "one budget for ever", "another --workspace"):
        assert way in life.fourth.err


def test_without_budget_the_same_command_still_answers_from_what_was_paid(life: Life) -> None:
    assert life.again["model_version"] == "breast_cancer:3"
    assert num_releases(life.workspace, life.again["run_id"]) == 0
    assert life.again["metrics"] == life.interrupted["metrics"]


def test_the_budget_is_what_three_runs_cost(life: Life) -> None:
    with Ledger(life.workspace / "ledger.sqlite") as ledger:
        spending = ledger.spending()
    assert len(spending) == 2 * NUM_CLIENTS
    assert all(0 <= block.remaining <= block.budget for block in spending)
    for client in {block.block.client for block in spending}:
        shares = [block.held / block.budget for block in spending if block.block.client == client]
        assert max(shares) == pytest.approx(1.0)


def test_nothing_is_left_lying_about(life: Life) -> None:
    """No temporary file of a process that was cut short, except beside what it was writing."""
    stray = [path for path in life.workspace.rglob(".*") if path.is_file() and "train" not in path.parts]
    assert stray == []
    assert os.listdir(life.workspace / "models") == ["breast_cancer"]
    assert sorted(os.listdir(life.workspace / "models" / "breast_cancer")) == ["1", "2", "3"]
