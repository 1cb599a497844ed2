"""Built-in data sets are tables of text with stable keys, and fit their configurations."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from fedpipe.config import config_names, load_config
from fedpipe.data.cells import parse_labels
from fedpipe.data.readers import select_columns
from fedpipe.errors import ConfigError
from simulations.datasets import DATASETS, IDX, load_dataset


@pytest.mark.parametrize("source", sorted(DATASETS))
def test_cells_are_text_and_keys_are_unique_and_stable(source: str) -> None:
    frame = load_dataset(source)
    assert frame["record_id"].is_unique
    assert all(isinstance(cell, str) for column in frame for cell in frame[column].head(50))
    pd.testing.assert_frame_equal(load_dataset(source, 20), frame.head(20))


@pytest.mark.parametrize("name", [name for name in config_names() if load_config(name).data.source])
def test_a_configuration_s_own_data_fits_its_schema(name: str) -> None:
    config = load_config(name)
    source, schema = str(config.data.source), config.data_schema
    if source.startswith(IDX) and not Path(source.removeprefix(IDX)).is_dir():
        pytest.skip("its data set is not installed")
    frame = select_columns(load_dataset(source, 2000), schema, name)
    labels = parse_labels(frame[schema.label.name], schema.label, schema.missing_tokens)
    assert set(labels) == set(range(schema.num_classes))


def test_an_unknown_source_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="sklearn:digits"):
        load_dataset("sklearn:digit")
