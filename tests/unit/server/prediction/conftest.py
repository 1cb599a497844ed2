"""Small SavedModels, and a server for them without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest

from fedpipe.learning.tensorflow_runtime import tf
from server.prediction.access import KeyRing
from server.prediction.metrics import Metrics
from server.prediction.repository import Repository
from server.prediction.service import Limits, PredictionService
from server.prediction.sources import Catalogue, VersionPolicy
from server.prediction.web import WebApp

Answer = TypeVar("Answer")


class Half(tf.Module):
    """y = x / 2 + bias, and other shapes of signatures."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.bias = tf.Variable(bias)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def half(self, x: Any) -> Any:
        return {"y": x / 2.0 + self.bias}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 2], tf.int32, name="pair"),
            tf.TensorSpec([None], tf.string, name="text"),
        ]
    )
    def several(self, pair: Any, text: Any) -> Any:
        return {"sum": tf.reduce_sum(pair, axis=1), "text": text, "raw_bytes": text}

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32, name="x")])
    def scalar(self, x: Any) -> Any:
        return {"y": x + self.bias}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def total(self, x: Any) -> Any:
        # It looks as if requests could be joined, but one answer depends on all rows.
        return {"y": tf.unique(x)[0]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def regress(self, inputs: Any) -> Any:
        x = tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([], tf.float32)})["x"]
        return {"outputs": x / 2.0 + self.bias}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def classify(self, inputs: Any) -> Any:
        x = tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([], tf.float32)})["x"]
        scores = tf.stack([1.0 - x, x], axis=1)
        classes = tf.repeat(tf.constant([["no", "yes"]]), tf.size(x), axis=0)
        return {"classes": classes, "scores": scores}


def save_half(directory: Path, bias: float = 2.0) -> Path:
    """Writes the model into `directory`."""
    model = Half(bias)
    signatures = {
        name: getattr(model, name) for name in ("several", "scalar", "total", "regress", "classify")
    }
    tf.saved_model.save(model, str(directory), signatures={"serving_default": model.half, **signatures})
    updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(directory))
    for name in ("regress", "classify"):
        updater.replace_method_name(signature_key=name, method_name=f"tensorflow/serving/{name}")
    updater.save()
    return directory


@dataclass(kw_only=True)
class Served:
    """A server under test."""

    repository: Repository
    service: PredictionService
    web: httpx.AsyncClient

    async def post(self, path: str, body: Any = None, **options: Any) -> Any:
        """Returns a model's JSON, whatever the status."""
        return (await self.web.post(f"/v1/models/{path}", json=body, **options)).json()

    async def get(self, path: str) -> Any:
        """Returns the JSON of a GET below /v1/models/."""
        return (await self.web.get(f"/v1/models/{path}")).json()


Use = Callable[[Served], Awaitable[Answer]]


@pytest.fixture(scope="session")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel; copy it under a version's number."""
    return save_half(tmp_path_factory.mktemp("half") / "model")


@pytest.fixture(scope="session")
def models(half: Path) -> Path:
    """A directory that holds model `half`, version 123."""
    root = half.parent / "models"
    (root / "half").mkdir(parents=True)
    (root / "half" / "123").symlink_to(half)
    return root


def serve(
    root: Path,
    use: Use[Answer],
    *,
    policy: VersionPolicy | None = None,
    labels: dict[str, dict[str, int]] | None = None,
    limits: Limits | None = None,
    keys: KeyRing | None = None,
) -> Answer:
    """Returns what `use` makes of a server for the models below `root`."""

    async def run() -> Answer:
        metrics = Metrics()
        repository = Repository(
            Catalogue(root=root, policy=policy or VersionPolicy(), labels=labels or {}),
            num_threads=2,
            max_batch_rows=64,
            observe=lambda name: lambda requests, rows: metrics.observe_batch(name, requests, rows),
        )
        service = PredictionService(
            models=repository.models, metrics=metrics, limits=limits or Limits(), keys=keys
        )
        await repository.poll()
        transport = httpx.ASGITransport(WebApp(service, repository.models.ready))
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://served") as web:
                return await use(Served(repository=repository, service=service, web=web))
        finally:
            await repository.close()

    return asyncio.run(run())


def floats(*values: float) -> Any:
    """Returns a float32 vector."""
    return np.array(values, np.float32)
