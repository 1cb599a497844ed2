"""Predictions of a deployed version for a file of records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedpipe.data.readers import read_features
from fedpipe.errors import WorkspaceError
from fedpipe.pipeline import Workspace
from server.paper_trail import find_model


def predict_file(root: Path, reference: str, source: Path) -> Iterator[dict[str, Any]]:
    """Yields one row per record: `probability` of the positive class, or of each class, and `prediction`.

    Raises:
      ConfigError: for an unknown model.
      DataError: if the file does not hold the model's columns.
      WorkspaceError: if the version was never deployed.
    """
    version = find_model(root, reference)
    frame = read_features(source, version.data_schema)
    path = Workspace.open_existing(root).models_dir / version.name / str(version.version)
    if not path.is_dir():
        raise WorkspaceError(
            f"Expected {version.name}:{version.version} at {path}, found nothing: "
            "its run did not reach deploy; go on with it by --resume."
        )
    from fedpipe.learning.serving import load_signature, predict_frame

    if not len(frame):
        return
    scores = predict_frame(load_signature(path), frame, version.columns)
    names = version.class_names
    for score in scores:
        if scores.ndim == 1:
            yield {"probability": float(score), "prediction": names[int(score >= 0.5)]}
        else:
            each = {f"probability_{name}": float(value) for name, value in zip(names, score, strict=True)}
            yield {**each, "prediction": names[int(score.argmax())]}
