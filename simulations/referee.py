"""Exact figures about a simulated run, from records that no coordinator could see."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import ValidationError

from fedpipe.config import Config
from fedpipe.data import Shard, Transform, open_shard
from fedpipe.data.inputs import encode_compactly
from fedpipe.data.table import Table, concatenated
from fedpipe.files import write_text
from fedpipe.learning.exact_metrics import exact_metrics
from fedpipe.reports.summary import SimulationOnly
from simulations.population import SimulatedClient

MAX_BASELINE_RECORDS = 50_000


def judge_once(
    directory: Path,
    key: str,
    config: Config,
    clients: Sequence[SimulatedClient],
    *,
    transform: Transform,
    model_path: Path,
) -> SimulationOnly:
    """Returns what `judge` does, kept in `directory` under `key`, which names model and records."""
    path = directory / f"referee-{key[:32]}.json"
    try:
        return SimulationOnly.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        found = judge(config, clients, transform=transform, model_path=model_path)
        write_text(path, found.model_dump_json() + "\n")
        return found


def judge(
    config: Config, clients: Sequence[SimulatedClient], *, transform: Transform, model_path: Path
) -> SimulationOnly:
    """Returns exact metrics of the deployed model on all held-out records, and a pooled baseline.

    The baseline is logistic regression on the same features of all clients' training records
    together, without privacy.
    """
    shards = [_open(config, client) for client in clients]
    train, held_out = _pool([s.labelled_train for s in shards]), _pool([s.labelled_eval for s in shards])
    return SimulationOnly(
        exact_metrics=_exact(_served(model_path, transform, held_out.frame), held_out.labels),
        baseline=_exact(_baseline(transform, train, held_out), held_out.labels),
        num_examples={
            "total": sum(len(shard.labels) for shard in shards),
            "train": len(train.labels),
            "eval": len(held_out.labels),
        },
    )


def _exact(scores: NDArray[np.float64] | None, labels: NDArray[np.int64]) -> dict[str, float]:
    return {} if scores is None or not len(labels) else exact_metrics(scores, labels)


def _open(config: Config, client: SimulatedClient) -> Shard:
    shard = open_shard(
        client.source,
        config.data_schema,
        eval_fraction=config.eval_fraction,
        split_key=client.key_path.read_bytes(),
    )
    return shard.within(config.run_spans)


def _pool(shards: Sequence[Shard]) -> Shard:
    return Shard(
        table=Table.of(concatenated([shard.frame for shard in shards])),
        labels=np.concatenate([shard.labels for shard in shards]),
        is_eval=np.concatenate([shard.is_eval for shard in shards]),
        spans=np.concatenate([shard.spans for shard in shards]),
    )


def _served(model_path: Path, transform: Transform, frame: pd.DataFrame) -> NDArray[np.float64] | None:
    from fedpipe.learning.serving import load_signature, predict_frame

    if not len(frame):
        return None
    return predict_frame(load_signature(model_path), frame, transform.columns)


def _baseline(transform: Transform, train: Shard, held_out: Shard) -> NDArray[np.float64] | None:
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(train.labels)) < 2 or not len(held_out.labels):
        return None
    rows = np.random.default_rng(0).permutation(len(train.labels))[:MAX_BASELINE_RECORDS]
    features = encode_compactly(transform, Table.of(train.frame.iloc[rows]))
    classes = train.labels[rows]
    model = LogisticRegression(max_iter=1000).fit(features, classes)
    known = np.zeros((len(held_out.labels), max(int(classes.max()), int(held_out.labels.max())) + 1))
    known[:, model.classes_] = model.predict_proba(encode_compactly(transform, held_out.table))
    return known[:, 1] if known.shape[1] == 2 else known
