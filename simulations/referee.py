"""Exact figures about a simulated run, from records that no coordinator could see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from fedpipe.config import Config
from fedpipe.data import Shard, Transform, open_shard
from fedpipe.data.inputs import encode_compactly
from fedpipe.data.table import Table, TableWriter
from fedpipe.files import write_text
from fedpipe.learning.exact_metrics import exact_metrics
from fedpipe.reports.summary import SimulationOnly
from fedpipe.scratch import Scratch
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
    scratch = Scratch(directory=clients[0].source.parent)
    pools, total = (_Pool(scratch), _Pool(scratch)), 0
    for client in clients:  # one at a time: together they may be larger than memory
        shard = _open(config, client, scratch)
        total += len(shard.labels)
        for pool, part in zip(pools, (shard.labelled_train, shard.labelled_eval), strict=True):
            pool.add(part)
    train, held_out = (pool.records() for pool in pools)
    return SimulationOnly(
        exact_metrics=_exact(_served(model_path, transform, held_out.table), held_out.labels),
        baseline=_exact(_baseline(transform, train, held_out, scratch), held_out.labels),
        num_examples={
            "total": total,
            "train": len(train.labels),
            "eval": len(held_out.labels),
        },
    )


def _exact(scores: NDArray[np.float64] | None, labels: NDArray[np.int64]) -> dict[str, float]:
    return {} if scores is None or not len(labels) else exact_metrics(scores, labels)


def _open(config: Config, client: SimulatedClient, scratch: Scratch) -> Shard:
    shard = open_shard(
        client.source,
        config.data_schema,
        eval_fraction=config.eval_fraction,
        split_key=client.key_path.read_bytes(),
        scratch=scratch,
    )
    return shard.within(config.run_spans)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class _Records:
    """Labelled records as text, and int64 (n,) classes. Its repr shows none."""

    table: Table
    labels: NDArray[np.int64]


class _Pool:
    """Records of one client after the other."""

    def __init__(self, scratch: Scratch) -> None:
        self._writer = TableWriter(scratch)
        self._labels: list[NDArray[np.int64]] = []

    def add(self, shard: Shard) -> None:
        for frame in shard.table.parts():
            self._writer.add(frame)
        self._labels.append(shard.labels)

    def records(self) -> _Records:
        return _Records(table=self._writer.table(), labels=np.concatenate(self._labels))


def _served(model_path: Path, transform: Transform, table: Table) -> NDArray[np.float64] | None:
    from fedpipe.learning.serving import load_signature, predict_frame

    if not len(table):
        return None
    signature = load_signature(model_path)
    return np.concatenate([predict_frame(signature, f, transform.columns) for f in table.parts()])


def _baseline(
    transform: Transform, train: _Records, held_out: _Records, scratch: Scratch
) -> NDArray[np.float64] | None:
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(train.labels)) < 2 or not len(held_out.labels):
        return None
    rows = np.random.default_rng(0).permutation(len(train.labels)) < MAX_BASELINE_RECORDS
    features = encode_compactly(transform, train.table.select(rows), scratch)
    classes = train.labels[rows]
    model = LogisticRegression(max_iter=1000).fit(features, classes)
    known = np.zeros((len(held_out.labels), max(int(classes.max()), int(held_out.labels.max())) + 1))
    known[:, model.classes_] = model.predict_proba(encode_compactly(transform, held_out.table, scratch))
    return known[:, 1] if known.shape[1] == 2 else known
