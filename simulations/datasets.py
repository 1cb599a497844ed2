"""Built-in data sets, as tables of text like any export."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from fedpipe.errors import ConfigError, nearest


def load_dataset(source: str) -> pd.DataFrame:
    """Returns the records of a built-in data set, each with a stable `record_id`.

    Raises:
      ConfigError: for an unknown source.
    """
    if source not in DATASETS:
        raise ConfigError(f"Expected a known data.source, found {source!r}. {nearest(source, DATASETS)}")
    frame = DATASETS[source]()
    frame.insert(0, "record_id", [f"{source}/{index}" for index in range(len(frame))])
    return frame


def _breast_cancer() -> pd.DataFrame:
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    names = [str(name).replace(" ", "_") for name in data.feature_names]
    frame = pd.DataFrame(data.data, columns=names).map(repr_number)
    frame["diagnosis"] = np.where(data.target == 0, "malignant", "benign")
    return frame


def _digits() -> pd.DataFrame:
    from sklearn.datasets import load_digits

    data = load_digits()
    frame = pd.DataFrame(data.data.astype(int).astype(str), columns=list(data.feature_names))
    frame["digit"] = data.target.astype(str)
    return frame


def repr_number(value: float) -> str:
    """Returns the shortest text that reads back as the same number."""
    return repr(float(value))


DATASETS: dict[str, Callable[[], pd.DataFrame]] = {
    "sklearn:breast_cancer": _breast_cancer,
    "sklearn:digits": _digits,
}
