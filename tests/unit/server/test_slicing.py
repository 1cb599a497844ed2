"""Slices at the coordinator: the right table for the right name, with the noise of its query."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fedpipe.data import Transform
from fedpipe.federation import Reply
from fedpipe.learning.score_histograms import ScoreBins
from fedpipe.learning.slices import SliceGroup
from server.steps.asking import Asker
from server.steps.slicing import (
    OTHER,
    category_names,
    client_slices,
    column_slices,
    slice_shapes,
    slice_values,
)

BINS = ScoreBins.around(0.5, 4)
TOWN = {"type": "vocabulary", "column": "town", "words": ["trier", "ulm"]}
WARD = {"type": "hashed", "column": "ward", "num_buckets": 8, "buckets": [1, 5]}
TRANSFORM = Transform.model_validate({"features": [TOWN, WARD], "missing_tokens": [""]})
SCORES = np.array([[40, 30, 20, 10], [10, 20, 30, 40]])


def reply(client: str, *tables: Any, scores: Any = SCORES) -> Reply:
    slices = {f"slice_{index}": np.asarray(each) for index, each in enumerate(tables)}
    return Reply(client=client, arrays={"scores": scores} | slices)


def by_town(make_asker: Callable[..., Asker], replies: list[Reply]) -> SliceGroup:
    [found] = column_slices(
        replies,
        ["town"],
        BINS,
        asker=make_asker({}),
        transform=TRANSFORM,
        generator=np.random.default_rng(0),
    )
    return found


def test_tables_are_summed_over_clients_and_named_by_the_transform(make_asker: Callable[..., Asker]) -> None:
    found = by_town(
        make_asker,
        [reply("a", [SCORES, 0 * SCORES, 3 * SCORES]), reply("b", [SCORES, 0 * SCORES, 0 * SCORES])],
    )
    assert [(each.name, each.count.estimate) for each in found.slices] == [(OTHER, 600), ("trier", 400)]
    assert found.too_few == ("ulm",)


def test_tables_have_a_place_for_every_category() -> None:
    assert slice_shapes(["town", "ward"], BINS, TRANSFORM) == {"slice_0": (3, 2, 4), "slice_1": (3, 2, 4)}


def test_names_are_spelled_as_the_schema_does(make_asker: Callable[..., Asker]) -> None:
    schema = make_asker({}).terms.data_schema
    town = schema.columns["town"].model_copy(update={"vocabulary": ("Ulm", "Trier")})
    spelled = schema.model_copy(update={"columns": schema.columns | {"town": town}})
    assert category_names(TRANSFORM.category("town"), spelled) == ["Trier", "Ulm", OTHER]
    assert category_names(TRANSFORM.category("ward"), schema) == ["hash bucket 1", "hash bucket 5", OTHER]


def test_clients_are_slices_with_two_classes_or_more() -> None:
    generator = np.random.default_rng(0)
    found = client_slices(
        [reply("a"), reply("b", scores=2 * SCORES)], BINS, noise_stddev=1.0, generator=generator
    )
    assert [each.name for each in found.slices] == ["b", "a"]
    confusion = Reply(client="c", arrays={"confusion": np.diag([50, 40, 30])})
    found = client_slices([confusion], BINS, noise_stddev=0.0, generator=generator)
    assert found.slices[0].observed.estimate == 1
    assert found.slices[0].auc is None


def test_nothing_is_added_to_a_request_without_columns() -> None:
    assert slice_values([], BINS) == {}
    assert sorted(slice_values(["town"], BINS)) == ["slice_bins", "slices"]
