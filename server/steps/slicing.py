"""Quality by client, and by the categories of some columns, from the replies to `analyze`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fedpipe.data import CategoricalColumn, Schema, Transform
from fedpipe.data.transform import HashedFeature, VocabularyFeature
from fedpipe.encoding.text import normalize_text
from fedpipe.federation import Reply
from fedpipe.federation.messages import sum_counts
from fedpipe.learning.score_histograms import BINARY, CONFUSION, ScoreBins
from fedpipe.learning.slices import SliceGroup, estimate_accuracies, estimate_slices
from server.steps.asking import Asker

CLIENTS = "client"
OTHER = "other or missing"
MAX_CLIENTS = 100


def slice_values(columns: Sequence[str], bins: ScoreBins) -> dict[str, Any]:
    """Returns what a request adds to ask for slices; nothing without columns."""
    return {"slices": list(columns), "slice_bins": bins.model_dump(mode="json")} if columns else {}


def slice_shapes(columns: Sequence[str], bins: ScoreBins, transform: Transform) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the histograms that answer `slice_values`."""
    return {
        f"slice_{index}": (transform.category(column).width, 2, bins.num_bins)
        for index, column in enumerate(columns)
    }


def client_slices(
    replies: Sequence[Reply], bins: ScoreBins, *, noise_stddev: float, generator: np.random.Generator
) -> SliceGroup:
    """Returns the quality at each client, of the largest of many: what they released anyway."""
    binary = BINARY in replies[0].arrays
    name = BINARY if binary else CONFUSION
    tables = {reply.client: reply.arrays[name] for reply in replies}
    largest = sorted(tables, key=lambda client: -int(tables[client].sum()))[:MAX_CLIENTS]
    shown = {client: tables[client] for client in largest}
    if not binary:
        return estimate_accuracies(CLIENTS, shown, noise_stddev=noise_stddev)
    return estimate_slices(
        CLIENTS,
        shown,
        bins,
        binary=True,
        noise_stddev=noise_stddev,
        num_clients=1,
        generator=generator,
    )


def column_slices(
    replies: Sequence[Reply],
    columns: Sequence[str],
    bins: ScoreBins,
    *,
    asker: Asker,
    transform: Transform,
    generator: np.random.Generator,
) -> Iterator[SliceGroup]:
    """Returns the quality by the categories of each column, summed over clients."""
    schema = asker.terms.data_schema
    for index, column in enumerate(columns):
        names = category_names(transform.category(column), schema)
        table = sum_counts(replies, f"slice_{index}")
        yield estimate_slices(
            column,
            dict(zip(names, table, strict=True)),
            bins,
            binary=schema.num_classes == 2,
            noise_stddev=asker.noise_stddev("slices"),
            num_clients=len(replies),
            generator=generator,
        )


def category_names(feature: VocabularyFeature | HashedFeature, schema: Schema) -> list[str]:
    """Returns the name of every category as the schema spells it, OTHER last."""
    if isinstance(feature, HashedFeature):
        return [*(f"hash bucket {bucket}" for bucket in feature.buckets), OTHER]
    column = schema.columns[feature.column]
    declared = column.vocabulary if isinstance(column, CategoricalColumn) else ()
    spelled = {normalize_text(word): word for word in declared}
    return [*(spelled.get(word, word) for word in feature.words), OTHER]
