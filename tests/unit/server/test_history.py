"""Which earlier counts a run may compare itself with."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from fedpipe.federation.terms import RunTerms
from fedpipe.pipeline import ArtifactFile, MetadataStore, Workspace
from fedpipe.pipeline.fingerprint import Fingerprint
from server.artifacts import Statistics
from server.history import TERMS, statistics_before

NOW = datetime(2026, 3, 1, tzinfo=timezone.utc)

Find = Callable[[RunTerms], Statistics | None]


@pytest.fixture
def terms(make_terms: Callable[..., RunTerms]) -> Callable[..., RunTerms]:
    """Terms over one month, with changes of the plan."""

    def make(span: str, **plan: Any) -> RunTerms:
        made = make_terms()
        schema = made.data_schema.model_dump() | {"time": {"column": "received", "window": "month"}}
        changed = made.plan.model_dump() | plan
        return make_terms(data_schema=schema, spans=(span,), plan=changed)

    return make


@pytest.fixture
def world(tmp_path: Path) -> tuple[Workspace, MetadataStore]:
    workspace = Workspace(tmp_path / "workspace")
    return workspace, MetadataStore.open(workspace.metadata_path)


@pytest.fixture
def record(world: tuple[Workspace, MetadataStore]) -> Callable[..., Statistics]:
    """Records a run that counted the spans of its terms."""
    workspace, metadata = world

    def make(run_id: str, agreed: RunTerms, pipeline: str = "small") -> Statistics:
        metadata.create_run(run_id, pipeline=pipeline, config_digest="c", created_at=NOW)
        statistics = Statistics(
            spans=agreed.spans,
            label_counts={"a": [[[5, 6, 0], [1, 1, 0]] for _ in agreed.spans]},
            column_health={},
            label_noise_stddev=3.0,
            column_noise_stddev=3.0,
        )
        path = workspace.make_step_dir(run_id, "statistics") / "statistics.json"
        path.write_text(statistics.model_dump_json())
        (workspace.runs_dir / run_id / TERMS).write_text(agreed.model_dump_json(by_alias=True))
        execution = metadata.start_execution(
            run_id, "statistics", fingerprint=Fingerprint(parts={}), because="", started_at=NOW, inputs=[]
        )
        file = ArtifactFile(name="statistics", type_name="Statistics", uri=workspace.uri(path), digest="d")
        metadata.finish_execution(execution, state="COMPLETE", duration_seconds=1, outputs=[file])
        return statistics

    return make


@pytest.fixture
def find(world: tuple[Workspace, MetadataStore]) -> Find:
    workspace, metadata = world
    return lambda agreed: statistics_before(agreed, metadata, workspace, pipeline="small")


def test_the_span_just_before_is_found(
    terms: Callable[..., RunTerms], record: Callable[..., Statistics], find: Find
) -> None:
    assert find(terms("2026-02")) is None
    before = record("r1", terms("2026-01"))
    record("r2", terms("2026-01"), pipeline="other")
    assert find(terms("2026-02")) == before
    assert find(terms("2026-03")) is None


@pytest.mark.parametrize(
    "weaker",
    [
        {"private": False, "queries": {}},
        {"randomness": "secure"},
        "less noise",
    ],
    ids=str,
)
def test_counts_that_protect_less_than_this_run_promises_are_left_alone(
    terms: Callable[..., RunTerms], record: Callable[..., Statistics], find: Find, weaker: Any
) -> None:
    """What a run makes of them would cost their records more than its certificate says."""
    agreed = terms("2026-01")
    if weaker == "less noise":
        weaker = {"queries": agreed.plan.model_dump()["queries"]}
        weaker["queries"]["labels"]["mechanism"]["noise_stddev"] /= 2
    record("r1", terms("2026-01", **weaker))
    assert find(terms("2026-02")) is None


def test_a_run_without_privacy_may_compare_with_anything(
    terms: Callable[..., RunTerms], record: Callable[..., Statistics], find: Find
) -> None:
    before = record("r1", terms("2026-01"))
    assert find(terms("2026-02", private=False, queries={})) == before


def test_counts_whose_terms_are_gone_are_left_alone(
    terms: Callable[..., RunTerms],
    record: Callable[..., Statistics],
    find: Find,
    world: tuple[Workspace, MetadataStore],
) -> None:
    record("r1", terms("2026-01"))
    (world[0].runs_dir / "r1" / TERMS).unlink()
    assert find(terms("2026-02")) is None
