"""A simulated run: begun, killed anywhere, gone on with."""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedpipe.config import Config
from fedpipe.errors import BudgetError, ConfigError, DataError, FederationError, WorkspaceError
from fedpipe.ledger import Ledger
from fedpipe.pipeline import MetadataStore, SilentProgress, Workspace
from fedpipe.reports.summary import RunSummary
from server.claims import CLAIM
from server.paper_trail import show_run
from simulations.past_runs import REQUEST, SUMMARY
from simulations.request import SimulationRequest
from simulations.run import resume, simulate

pytestmark = pytest.mark.usefixtures("no_tensorflow")

NOW = datetime(2024, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
# For each of two clients: validate, preprocess, three rounds of train, analyze.
NUM_RELEASES = 2 * 6

MakeConfig = Callable[..., Config]
WriteRecords = Callable[..., Path]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def wanted(make_config: MakeConfig, write_records: WriteRecords) -> SimulationRequest:
    """A run of two clients."""
    return SimulationRequest.make(make_config(federation={"num_clients": 2}), [write_records()], 0)


def start(
    workspace: Workspace, request: SimulationRequest, now: datetime = NOW, *, fresh: bool = False
) -> RunSummary:
    return simulate(workspace, request, progress=SilentProgress(), now=now, fresh=fresh)


def go_on(workspace: Workspace, request: SimulationRequest | None = None) -> RunSummary:
    return resume(workspace, request, progress=SilentProgress())


def spent(workspace: Workspace) -> dict[str, tuple[float, int]]:
    """Returns what is held of every block, and the number of releases counted on it."""
    with Ledger(workspace.ledger_path) as ledger:
        return {
            str(spending.block): (round(spending.held, 9), spending.num_releases)
            for spending in ledger.spending()
        }


def num_releases(workspace: Workspace, run_id: str) -> int:
    with Ledger(workspace.ledger_path) as ledger:
        return ledger.num_releases(run_id)


def model_bytes(summary: RunSummary) -> bytes:
    return (Path(summary.paths.model) / "saved_model.pb").read_bytes()


def certificate(summary: RunSummary) -> dict[str, Any]:
    """Returns what must be the same whatever the run is called and whoever signs."""
    found: dict[str, Any] = json.loads(Path(summary.paths.certificate).read_text())
    for name in ("run_id", "issued_at", "signature"):
        del found[name]
    for each in (*found["releases"], *(one["statement"] for one in found["attestations"])):
        assert each.pop("run_id") == summary.run_id
    return found | {"attestations": [each["statement"] for each in found["attestations"]]}


class Killed(BaseException):
    """Stands for SIGKILL."""


class Killer:
    """Kills the process at its `at`-th durable change, and lets nothing be written thereafter."""

    def __init__(self, at: int) -> None:
        self._at = at
        self.count = 0

    def tick(self) -> None:
        self.count += 1
        if self.count >= self._at:
            raise Killed

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.tick()
            result = function(*args, **kwargs)
            self.tick()
            return result

        return watched


@contextmanager
def killed_at(at: int, *, only: str | None = None) -> Iterator[Killer]:
    """Watches everything that is durable: renames, the ledger and the paper trail; or `only` one of these."""
    killer = Killer(at)
    writes = {
        Ledger: ("reserve", "commit", "close"),
        MetadataStore: (
            "create_run",
            "update_run",
            "start_execution",
            "finish_execution",
            "record_cached",
        ),
        os: ("replace", "link"),
    }
    with pytest.MonkeyPatch.context() as patch:
        for owner, names in writes.items():
            for name in [name for name in names if only in (None, name)]:
                patch.setattr(owner, name, killer.around(getattr(owner, name)))
        yield killer


def test_a_run_ends_with_a_report_and_a_summary(workspace: Workspace, wanted: SimulationRequest) -> None:
    summary = start(workspace, wanted)
    directory = workspace.runs_dir / summary.run_id
    assert RunSummary.model_validate_json((directory / SUMMARY).read_bytes()) == summary
    assert Path(summary.paths.report).read_text().lstrip().startswith("<!doctype html>")
    assert (summary.status, summary.num_clients, summary.rounds) == ("COMPLETE", 2, 3)
    assert num_releases(workspace, summary.run_id) == NUM_RELEASES
    assert list(summary.timings_seconds) == [
        "ingest",
        "statistics",
        "validate",
        "preprocess",
        "train",
        "analyze",
        "register",
        "deploy",
    ]


def test_without_its_population_s_files_a_summary_is_still_there(
    workspace: Workspace, wanted: SimulationRequest
) -> None:
    summary = start(workspace, wanted)
    Path(wanted.data[0]).unlink()
    assert go_on(workspace) == summary


@pytest.mark.parametrize("stride", [3, 8, 21])
def test_killed_again_and_again_it_ends_like_a_run_that_never_was(
    tmp_path: Path, workspace: Workspace, wanted: SimulationRequest, stride: int
) -> None:
    """Each process dies at a later of its own durable changes than the one before."""
    undisturbed = Workspace(tmp_path / "undisturbed")
    expected = start(undisturbed, wanted)
    summary, deaths = None, 0
    while summary is None:
        begun = list(workspace.runs_dir.glob(f"*/{REQUEST}"))
        try:
            with killed_at(1 + stride * deaths):
                summary = go_on(workspace) if begun else start(workspace, wanted)
        except Killed:
            deaths += 1
    assert deaths >= 2
    assert num_releases(workspace, summary.run_id) == NUM_RELEASES
    assert spent(workspace) == spent(undisturbed)
    assert model_bytes(summary) == model_bytes(expected)
    assert certificate(summary) == certificate(expected)
    assert summary.metrics == expected.metrics
    assert summary.model_version == "small:1"
    runs = MetadataStore.open(workspace.metadata_path).runs()
    assert [(run.run_id, run.status) for run in runs] == [(summary.run_id, "COMPLETE")]


@pytest.mark.parametrize("release", [1, 4, 9, 14])
def test_a_killed_run_counts_all_that_it_might_have_released(
    workspace: Workspace, wanted: SimulationRequest, release: int
) -> None:
    with pytest.raises(Killed), killed_at(release, only="commit"):
        start(workspace, wanted)
    whole = {block: held for block, (held, _) in spent(workspace).items()}
    assert all(held > 0 for held in whole.values())
    with pytest.raises(Killed), killed_at(10):
        go_on(workspace)
    assert {block: held for block, (held, _) in spent(workspace).items()} == whole
    go_on(workspace)
    assert {block: held for block, (held, _) in spent(workspace).items()} == whole


def test_a_run_that_is_given_up_frees_what_it_never_released(
    workspace: Workspace, wanted: SimulationRequest
) -> None:
    """Three runs are afforded; two that died before their first release do not count."""
    for second in range(2):
        with pytest.raises(Killed), killed_at(1, only="commit"):
            start(workspace, wanted, NOW + timedelta(seconds=second), fresh=True)
        assert {num_releases for _, num_releases in spent(workspace).values()} == {0}
        assert all(held > 0 for held, _ in spent(workspace).values())
    for second in range(2, 5):
        start(workspace, wanted, NOW + timedelta(seconds=second), fresh=True)
    with pytest.raises(
        BudgetError, match=r"(?s)Requested: .*, remaining: .*, difference: .*Ways out: .*--workspace"
    ):
        start(workspace, wanted, NOW + timedelta(seconds=5), fresh=True)


def test_the_same_command_again_is_answered_without_a_single_release(
    workspace: Workspace, wanted: SimulationRequest
) -> None:
    first = start(workspace, wanted)
    before = spent(workspace)
    again = start(workspace, wanted, NOW + timedelta(seconds=1))
    assert spent(workspace) == before
    assert num_releases(workspace, again.run_id) == 0
    assert again.run_id != first.run_id
    assert (again.model_version, again.metrics) == (first.model_version, first.metrics)


def test_the_same_command_goes_on_with_a_run_that_was_killed(
    workspace: Workspace, wanted: SimulationRequest
) -> None:
    with pytest.raises(Killed), killed_at(60):
        start(workspace, wanted)
    summary = start(workspace, wanted, NOW + timedelta(seconds=1))
    assert [path.name for path in workspace.runs_dir.iterdir()] == [summary.run_id]
    assert num_releases(workspace, summary.run_id) == NUM_RELEASES


# One setting each, and the steps that it makes run; ingest always runs.
CHANGES = {
    "privacy.lifetime_epsilon=50": (),
    "validation.max_unlabelled_share=0.8": ("validate",),
    "training.round_timeout_seconds=500": (),
    "preprocess.min_count=7": ("preprocess",),  # of no consequence here: what follows is not run
    "preprocess.clip_deviations=1.5": ("preprocess", "train", "analyze", "register", "deploy"),
    "training.learning_rate=0.125": ("train", "analyze", "register", "deploy"),
    "analyze.num_bins=12": ("analyze", "register", "deploy"),
    "model.name=other": ("register", "deploy"),
    "training.max_retries=5": (),
    "analyze.slice_bins=12": (),  # there are no slices
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_setting_runs_and_charges_exactly_what_depends_on_it(
    workspace: Workspace, wanted: SimulationRequest, change: str
) -> None:
    start(workspace, wanted)
    key, _, value = change.partition("=")
    config = json.loads(json.dumps(wanted.config))
    group, name = key.split(".")
    config[group][name] = yaml.safe_load(value)
    summary = start(workspace, wanted.model_copy(update={"config": config}), NOW + timedelta(seconds=1))
    executions = MetadataStore.open(workspace.metadata_path).executions(summary.run_id)
    ran = tuple(each.step for each in executions if each.state == "COMPLETE")
    assert ran == ("ingest", *CHANGES[change])
    charged = {"statistics": 1, "preprocess": 1, "train": 3, "analyze": 1}
    expected = 2 * sum(charged.get(step, 0) for step in ran)
    assert num_releases(workspace, summary.run_id) == expected


def test_a_run_tells_of_each_step_whether_it_ran_was_resumed_or_cached_and_what_it_spent(
    workspace: Workspace, wanted: SimulationRequest
) -> None:
    with pytest.raises(Killed), killed_at(75):
        start(workspace, wanted)
    first = go_on(workspace)
    again = start(workspace, wanted, NOW + timedelta(seconds=1))

    def told(run_id: str) -> list[tuple[str, str, int]]:
        steps = show_run(workspace.root, run_id)["steps"]
        assert all((step["epsilon_alone"] is None) == (step["releases"] == 0) for step in steps)
        return [(step["step"], step["how"], step["releases"]) for step in steps]

    assert told(first.run_id) == [
        ("ingest", "ran", 0),
        ("statistics", "ran", 2),
        ("validate", "ran", 0),
        ("preprocess", "ran", 2),
        ("train", "resumed", 6),
        ("analyze", "ran", 2),
        ("register", "ran", 0),
        ("deploy", "ran", 0),
    ]
    assert [how for _, how, _ in told(again.run_id)] == ["ran", *["cached"] * 7]
    assert sum(releases for *_, releases in told(again.run_id)) == 0


def test_after_a_refusal_the_same_command_answers_from_what_was_paid(
    workspace: Workspace, wanted: SimulationRequest
) -> None:
    for second in range(3):
        start(workspace, wanted, NOW + timedelta(seconds=second), fresh=True)
    before = spent(workspace)
    with pytest.raises(BudgetError):
        start(workspace, wanted, NOW + timedelta(seconds=3), fresh=True)
    assert start(workspace, wanted, NOW + timedelta(seconds=4)).model_version == "small:3"
    assert spent(workspace) == before


@pytest.mark.parametrize(
    ("at", "only"), [(1, "reserve"), (12, "commit")], ids=["before the claim", "in training"]
)
def test_other_records_end_an_interrupted_run_and_the_next_command_begins_anew(
    workspace: Workspace, wanted: SimulationRequest, write_records: WriteRecords, at: int, only: str
) -> None:
    with pytest.raises(Killed), killed_at(at, only=only):
        start(workspace, wanted)
    write_records(70)
    with pytest.raises(DataError, match="records and the code that this run began with"):
        start(workspace, wanted, NOW + timedelta(seconds=1))
    summary = start(workspace, wanted, NOW + timedelta(seconds=2))
    assert num_releases(workspace, summary.run_id) == NUM_RELEASES
    assert len(list(workspace.runs_dir.iterdir())) == 2


def test_a_ledger_that_is_gone_stops_everything(workspace: Workspace, wanted: SimulationRequest) -> None:
    start(workspace, wanted)
    for path in workspace.root.glob("ledger.sqlite*"):
        path.unlink()
    for fresh in (False, True):
        with pytest.raises(WorkspaceError, match="forget what was spent"):
            start(workspace, wanted, NOW + timedelta(seconds=1), fresh=fresh)


def test_a_clock_that_jumps_back_does_not_change_which_run_was_last(
    workspace: Workspace, wanted: SimulationRequest
) -> None:
    start(workspace, wanted)
    with pytest.raises(Killed), killed_at(60):
        start(workspace, wanted, NOW - timedelta(days=400), fresh=True)
    assert go_on(workspace).run_id.startswith("2022")


def test_a_moved_workspace_goes_on_and_remembers(
    tmp_path: Path, workspace: Workspace, wanted: SimulationRequest
) -> None:
    with pytest.raises(Killed), killed_at(60):
        start(workspace, wanted)
    moved = Workspace(workspace.root.rename(tmp_path / "moved"))
    summary = start(moved, wanted)
    assert num_releases(moved, summary.run_id) == NUM_RELEASES
    assert start(moved, wanted, NOW + timedelta(seconds=1)).model_version == summary.model_version


def test_versions_go_on_counting_when_an_earlier_run_was_deleted(
    workspace: Workspace, wanted: SimulationRequest
) -> None:
    first = start(workspace, wanted)
    shutil.rmtree(workspace.runs_dir / first.run_id)
    shutil.rmtree(workspace.models_dir)
    second = start(workspace, wanted, NOW + timedelta(seconds=1))
    assert (first.model_version, second.model_version) == ("small:1", "small:2")
    assert Path(second.paths.model).is_dir()


def test_going_on_means_the_run_that_was_begun_last_even_if_it_never_was_recorded(
    workspace: Workspace, wanted: SimulationRequest
) -> None:
    first = start(workspace, wanted)
    with pytest.raises(Killed), killed_at(4):
        start(workspace, wanted, NOW + timedelta(hours=1), fresh=True)
    assert len(MetadataStore.open(workspace.metadata_path).runs()) == 1
    second = go_on(workspace)
    assert second.run_id > first.run_id
    assert second.model_version == "small:2"


def test_going_on_with_nothing_is_an_error(workspace: Workspace) -> None:
    with pytest.raises(WorkspaceError, match="without --resume"):
        go_on(workspace)


def test_going_on_with_the_same_settings_is_allowed_with_others_not(
    workspace: Workspace, wanted: SimulationRequest, make_config: MakeConfig
) -> None:
    with pytest.raises(Killed), killed_at(60):
        start(workspace, wanted)
    other = SimulationRequest.make(make_config(), [Path(path) for path in wanted.data], 0)
    with pytest.raises(ConfigError, match="give --resume alone"):
        go_on(workspace, other)
    with pytest.raises(ConfigError, match="give --resume alone"):
        go_on(workspace, wanted.model_copy(update={"seed": 1}))
    assert go_on(workspace, wanted).status == "COMPLETE"


def test_a_damaged_request_can_only_be_left_behind(workspace: Workspace, wanted: SimulationRequest) -> None:
    summary = start(workspace, wanted)
    (workspace.runs_dir / summary.run_id / REQUEST).write_text("{")
    with pytest.raises(WorkspaceError, match=r"damaged.*without --resume"):
        go_on(workspace)
    again = start(workspace, wanted, NOW + timedelta(seconds=1))
    assert num_releases(workspace, again.run_id) == 0
    assert go_on(workspace) == again


def test_a_damaged_summary_is_made_again(workspace: Workspace, wanted: SimulationRequest) -> None:
    summary = start(workspace, wanted)
    before = spent(workspace)
    (workspace.runs_dir / summary.run_id / SUMMARY).write_text("{")
    assert go_on(workspace).metrics == summary.metrics
    assert spent(workspace) == before


def test_a_summary_tells_where_things_are_now(
    tmp_path: Path, workspace: Workspace, wanted: SimulationRequest
) -> None:
    start(workspace, wanted)
    moved = Workspace(workspace.root.rename(tmp_path / "moved"))
    paths = go_on(moved).paths.model_dump()
    assert all(Path(path).exists() and Path(path).is_relative_to(moved.root) for path in paths.values())


def test_without_the_paper_trail_nothing_is_paid_for_again_unasked(
    workspace: Workspace, wanted: SimulationRequest
) -> None:
    start(workspace, wanted)
    before = spent(workspace)
    workspace.metadata_path.unlink()
    with pytest.raises(WorkspaceError, match="restore it, or pay for everything anew with --fresh"):
        start(workspace, wanted, NOW + timedelta(seconds=1))
    assert spent(workspace) == before
    assert start(workspace, wanted, NOW + timedelta(seconds=2), fresh=True).status == "COMPLETE"


def test_without_its_paper_trail_an_interrupted_run_goes_on(
    workspace: Workspace, wanted: SimulationRequest
) -> None:
    with pytest.raises(Killed), killed_at(85):
        start(workspace, wanted)
    workspace.metadata_path.unlink()
    summary = start(workspace, wanted)
    assert num_releases(workspace, summary.run_id) == NUM_RELEASES


@pytest.mark.parametrize("fresh", [False, True])
def test_a_ledger_of_before_stops_everything(
    tmp_path: Path, workspace: Workspace, wanted: SimulationRequest, fresh: bool
) -> None:
    """As a restored backup, or a ledger whose last changes were deleted with its -wal file."""
    with Ledger(workspace.ledger_path):
        pass
    shutil.copy(workspace.ledger_path, tmp_path / "backup")
    start(workspace, wanted)
    for path in workspace.root.glob("ledger.sqlite*"):
        if path.suffix != ".key":
            path.unlink()
    shutil.copy(tmp_path / "backup", workspace.ledger_path)
    with pytest.raises(WorkspaceError, match="Expected the releases of step"):
        start(workspace, wanted, NOW + timedelta(seconds=1), fresh=fresh)


@pytest.mark.parametrize("damage", ["", None])
@pytest.mark.parametrize("at", [45, 85])
def test_a_lost_claim_is_adopted_all_the_same(
    workspace: Workspace, wanted: SimulationRequest, at: int, damage: str | None
) -> None:
    with pytest.raises(Killed), killed_at(at):
        start(workspace, wanted)
    [path] = workspace.runs_dir.glob(f"*/{CLAIM}")
    path.unlink()
    if damage is not None:
        path.write_text(damage)
    summary = start(workspace, wanted)
    assert num_releases(workspace, summary.run_id) == NUM_RELEASES


@pytest.mark.parametrize("lost", ["", CLAIM])
def test_a_run_whose_files_were_deleted_frees_what_it_never_released(
    workspace: Workspace, wanted: SimulationRequest, lost: str
) -> None:
    with pytest.raises(Killed), killed_at(1, only="commit"):
        start(workspace, wanted)
    [directory] = workspace.runs_dir.iterdir()
    if lost:
        (directory / lost).unlink()
    else:
        shutil.rmtree(directory)
    whole = {block: held for block, (held, _) in spent(workspace).items()}
    start(workspace, wanted, NOW + timedelta(seconds=1), fresh=True)
    assert {block: held for block, (held, _) in spent(workspace).items()} == whole


def test_nobody_misses_the_checkpoint_of_a_finished_training(
    workspace: Workspace, wanted: SimulationRequest
) -> None:
    start(workspace, wanted)
    before = spent(workspace)
    assert not list(workspace.runs_dir.glob("*/train/checkpoint.npz"))
    start(workspace, wanted, NOW + timedelta(seconds=1))
    assert spent(workspace) == before


def test_a_lost_checkpoint_leaves_a_way_out(workspace: Workspace, wanted: SimulationRequest) -> None:
    with pytest.raises(Killed), killed_at(85):
        start(workspace, wanted)
    for path in workspace.runs_dir.glob("*/train/checkpoint.npz"):
        path.unlink()
    with pytest.raises(FederationError, match="or start a new run with --fresh"):
        start(workspace, wanted)
    assert start(workspace, wanted, NOW + timedelta(seconds=1), fresh=True).status == "COMPLETE"


def test_an_artifact_that_was_lost_after_the_end_is_made_again(
    workspace: Workspace, wanted: SimulationRequest
) -> None:
    summary = start(workspace, wanted)
    directory = workspace.runs_dir / summary.run_id
    (directory / SUMMARY).unlink()
    (directory / "deploy" / "pushed_model.json").unlink()
    again = go_on(workspace)
    assert again.model_copy(update={"timings_seconds": summary.timings_seconds}) == summary


def test_seeded_runs_repeat_and_a_seed_is_another_population(
    tmp_path: Path, wanted: SimulationRequest
) -> None:
    summaries = [
        start(Workspace(tmp_path / name), wanted.model_copy(update={"seed": seed}))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    models = [model_bytes(summary) for summary in summaries]
    assert models[0] == models[1] != models[2]
    assert certificate(summaries[0]) == certificate(summaries[1])


def test_owners_whose_records_cannot_be_read_log_it_where_only_they_look(
    workspace: Workspace, wanted: SimulationRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Killed), killed_at(40):
        start(workspace, wanted)
    sources = sorted(workspace.population_dir.rglob("client-*.parquet"))
    for source in sources:
        source.chmod(0o600)

    def spoil(path: Path) -> Path:
        path.write_bytes(b"Jane Roe")
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simulations.population._write_once", lambda path, content: None)
        for source in sources:
            spoil(source)
        with pytest.raises(FederationError, match=r"do not fit the schema.*clients\.log") as caught:
            go_on(workspace)
    log = workspace.population_dir / "clients.log"
    assert log.stat().st_mode & 0o777 == 0o600
    assert "client-1 could not read its records" in log.read_text()
    assert "Jane Roe" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_other_problems_have_budgets_of_their_own_other_seeds_and_exports_do_not(
    workspace: Workspace, make_config: MakeConfig, write_records: WriteRecords
) -> None:
    federation = {"num_clients": 2}
    files = [write_records()]
    for second, (name, seed) in enumerate([("small", 0), ("small", 1), ("other", 0)]):
        config = make_config(name=name, federation=federation)
        start(workspace, SimulationRequest.make(config, files, seed), NOW + timedelta(seconds=second))
    config = make_config(federation=federation)
    again = SimulationRequest.make(config, [write_records(61, "export.csv")], 0)
    start(workspace, again, NOW + timedelta(seconds=3))
    with pytest.raises(BudgetError, match=r"small\.client-1/undated"):
        start(workspace, again, NOW + timedelta(seconds=4), fresh=True)


def test_bad_data_is_refused_before_a_run_is_begun(
    workspace: Workspace, wanted: SimulationRequest, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="check the path"):
        start(workspace, wanted.model_copy(update={"data": (str(tmp_path / "absent.csv"),)}))
    assert not workspace.runs_dir.exists()


def test_a_missing_builder_is_refused_before_a_run_is_begun(
    workspace: Workspace, wanted: SimulationRequest
) -> None:
    model = {**wanted.config["model"], "type": "custom", "builder": "no.such.module:build"}
    request = wanted.model_copy(update={"config": {**wanted.config, "model": model}})
    with pytest.raises(ConfigError, match="PYTHONPATH"):
        start(workspace, request)
    assert not workspace.runs_dir.exists()


def test_a_missing_ray_is_refused_before_a_run_is_begun(
    workspace: Workspace, wanted: SimulationRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="pip install"):
        start(workspace, wanted.on_engine("ray"))
    assert not workspace.runs_dir.exists()


def test_a_run_goes_on_with_another_engine(
    workspace: Workspace, wanted: SimulationRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Killed), killed_at(60):
        start(workspace, wanted)
    [begun] = workspace.runs_dir.glob(f"*/{REQUEST}")
    stored = json.loads(begun.read_text())
    stored["request"] = wanted.on_engine("ray").model_dump(mode="json")
    begun.write_text(json.dumps(stored))
    before = spent(workspace)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="pip install"):
        go_on(workspace)
    assert spent(workspace) == before
    summary = resume(workspace, None, progress=SilentProgress(), engine="in-process")
    assert summary.status == "COMPLETE"
    assert go_on(workspace, wanted) == summary


def test_what_runs_the_apps_is_no_part_of_what_a_run_is(
    make_config: MakeConfig, write_records: WriteRecords
) -> None:
    data = [write_records()]

    def identity(**federation: object) -> str:
        config = make_config(federation={"num_clients": 2, **federation})
        return SimulationRequest.make(config, data, 0).identity()

    assert identity() == identity(engine="ray") == identity(engine="ray", num_actors=3)
    assert identity() != identity(min_records=2)


def test_all_that_holds_data_is_closed_to_others(workspace: Workspace, wanted: SimulationRequest) -> None:
    start(workspace, wanted)
    closed = [workspace.metadata_path, workspace.ledger_path]
    for folder in (workspace.population_dir, workspace.runs_dir):
        closed += [folder, *folder.rglob("*")]
    modes = {path: oct(path.stat().st_mode & 0o777) for path in closed}
    wrong = {path: mode for path, mode in modes.items() if mode != ("0o700" if path.is_dir() else "0o600")}
    assert not wrong
