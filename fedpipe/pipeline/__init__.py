"""Steps joined into a graph, run once each, resumed after a crash, and recorded in ML Metadata."""

from fedpipe.pipeline.metadata import MetadataStore
from fedpipe.pipeline.metadata_reader import MetadataReader
from fedpipe.pipeline.pipeline import Pipeline
from fedpipe.pipeline.progress import Progress, SilentProgress
from fedpipe.pipeline.records import (
    ArtifactFile,
    ArtifactRecord,
    ExecutionRecord,
    ExecutionState,
    RunRecord,
    RunStatus,
)
from fedpipe.pipeline.runner import Clock, run_pipeline
from fedpipe.pipeline.step import Step
from fedpipe.pipeline.workspace import Workspace

__all__ = [
    "ArtifactFile",
    "ArtifactRecord",
    "Clock",
    "ExecutionRecord",
    "ExecutionState",
    "MetadataReader",
    "MetadataStore",
    "Pipeline",
    "Progress",
    "RunRecord",
    "RunStatus",
    "SilentProgress",
    "Step",
    "Workspace",
    "run_pipeline",
]
