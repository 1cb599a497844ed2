"""Deploy: a SavedModel that preprocesses and predicts, in TensorFlow Serving's layout."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from fedpipe.errors import FedpipeError
from fedpipe.files import make_private_directory, sync_directory
from fedpipe.learning.vectors import Vector
from fedpipe.pipeline.artifacts import digest_payloads
from server.artifacts import Model, ModelVersion, PushedModel


def deploy(
    model: Model, model_version: ModelVersion, *, directory: Path, models_dir: Path, weights_directory: Path
) -> dict[str, PushedModel]:
    """Returns the PushedModel. The version appears at once and whole, after a canary answered.

    Raises:
      FedpipeError: the exported model does not answer the canary.
    """
    target = models_dir / model_version.name / str(model_version.version)
    weights = np.load(weights_directory / model.weights_file, allow_pickle=False)
    _push(target, model_version, weights)
    pushed = PushedModel(
        name=model_version.name,
        version=model_version.version,
        path=f"{models_dir.name}/{model_version.name}/{model_version.version}",
        status=model_version.privacy.status,
        files=digest_payloads(target, ()),
        canary="a record without any value got finite probabilities",
    )
    return {"pushed_model": pushed}


def _push(target: Path, model_version: ModelVersion, weights: Vector) -> None:
    from fedpipe.learning.serving import export_model

    make_private_directory(target.parent)
    staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=".staging-"))
    try:
        export_model(
            staging,
            transform=model_version.transform,
            definition=model_version.definition,
            weights=weights,
            class_names=model_version.class_names,
        )
        _check_canary(staging, model_version.columns)
        _sync_tree(staging)
        if target.exists():  # an earlier try got this far, or somebody deleted a part of it
            os.replace(target, f"{staging}-replaced")
        os.replace(staging, target)
        sync_directory(target.parent)
    finally:
        for abandoned in target.parent.glob(".staging-*"):
            shutil.rmtree(abandoned, ignore_errors=True)


def _check_canary(directory: Path, columns: tuple[str, ...]) -> None:
    from fedpipe.learning.serving import load_signature
    from fedpipe.learning.tensorflow_runtime import tf

    answer = load_signature(directory)(**{name: tf.constant([[""]]) for name in columns})
    if not np.isfinite(answer["probability"].numpy()).all():
        raise FedpipeError(
            "Expected the exported model to answer a record without values, found no finite probability: "
            "training diverged; lower training.learning_rate."
        )


def _sync_tree(root: Path) -> None:
    for path in root.rglob("*"):
        if path.is_dir():
            sync_directory(path)
            continue
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
