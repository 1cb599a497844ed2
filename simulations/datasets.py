"""Built-in data sets, as tables of text like any export."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedpipe.encoding.media import encode_image
from fedpipe.errors import ConfigError, nearest


def load_dataset(source: str, limit: int | None = None) -> pd.DataFrame:
    """Returns the first `limit` records of a built-in data set, each with a stable `record_id`.

    Raises:
      ConfigError: for an unknown source, or one that is not installed.
    """
    if source.startswith(IDX):
        frame = _images(Path(source.removeprefix(IDX)), limit)
    elif source in DATASETS:
        frame = DATASETS[source]()
    else:
        raise ConfigError(f"Expected a known data.source, found {source!r}. {nearest(source, DATASETS)}")
    frame.insert(0, "record_id", [f"{source}/{index}" for index in range(len(frame))])
    return frame.head(limit) if limit else frame


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


def _complaints() -> pd.DataFrame:
    from simulations.complaints import synthetic_complaints

    return synthetic_complaints()


def _images(folder: Path, limit: int | None) -> pd.DataFrame:
    """Returns the training images of a folder in the IDX format (LeCun et al., MNIST)."""
    images = _read_idx(folder, "train-images-idx3-ubyte.gz", 16, limit)
    labels = _read_idx(folder, "train-labels-idx1-ubyte.gz", 8, limit)
    pixels = images.reshape(len(labels), -1)
    return pd.DataFrame({"image": [encode_image(row) for row in pixels], "label": labels.astype(str)})


def _read_idx(folder: Path, name: str, header_bytes: int, limit: int | None) -> NDArray[np.uint8]:
    path = folder / name
    if not path.is_file():
        raise ConfigError(
            f"Expected {name} in {folder}, found none: install the data set "
            "(Debian: apt-get install dataset-fashion-mnist), or name another folder by data.source=idx:DIR."
        )
    with gzip.open(path) as stream:
        header = stream.read(header_bytes)
        count, *shape = np.frombuffer(header, dtype=">u4")[1:].tolist()
        count = min(count, limit or count)
        return np.frombuffer(stream.read(count * int(np.prod(shape))), dtype=np.uint8)


def repr_number(value: float) -> str:
    """Returns the shortest text that reads back as the same number."""
    return repr(float(value))


IDX = "idx:"
DATASETS: dict[str, Callable[[], pd.DataFrame]] = {
    "synthetic:complaints": _complaints,
    "sklearn:breast_cancer": _breast_cancer,
    "sklearn:digits": _digits,
}
