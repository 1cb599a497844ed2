"""Models of every kind that encrypted prediction takes, to be trained here, with records to ask about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from fedpipe.encoding.media import encode_image
from simulations.datasets import load_dataset

FASHION = "idx:/usr/share/datasets/fashion-mnist"
_DIGITS = {
    "name": "pictures",
    "schema": {
        "label": {"name": "digit", "classes": {str(digit): [] for digit in range(10)}},
        "columns": {"picture": {"type": "image", "height": 8, "width": 8}},
    },
    "federation": {"num_clients": 3},
    "model": {"name": "pictures", "type": "cnn"},
}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A model to be trained by `python -m fedpipe.simulate WORDS`, and records of text for it."""

    model: str
    words: tuple[str, ...]
    records: pd.DataFrame


def make_problem(kind: str, folder: Path, num_records: int, num_rounds: int) -> Problem:
    """Returns the problem of that kind, one of KINDS; files that it needs are written to `folder`."""
    model, words, records = KINDS[kind](folder, num_records)
    return Problem(
        model=model, words=("--config", *words, "--set", f"training.num_rounds={num_rounds}"), records=records
    )


Kind = Callable[[Path, int], tuple[str, tuple[str, ...], pd.DataFrame]]


def _breast_cancer(model_type: str) -> Kind:
    def make(folder: Path, num_records: int) -> tuple[str, tuple[str, ...], pd.DataFrame]:
        records = _resample(load_dataset("sklearn:breast_cancer"), num_records)
        return "breast_cancer", ("breast_cancer", "--set", f"model.type={model_type}"), records

    return make


def _complaints(folder: Path, num_records: int) -> tuple[str, tuple[str, ...], pd.DataFrame]:
    from simulations.complaints import synthetic_complaints

    words = ("complaints", "--set", "model.type=wide_and_deep", "--set", "model.hidden_units=[64, 16]")
    return "complaints", words, synthetic_complaints(num_records, seed=3)


def _digits(folder: Path, num_records: int) -> tuple[str, tuple[str, ...], pd.DataFrame]:
    """Trains on scikit-learn's digits; asks about them moved by up to a pixel each way."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    known = pd.DataFrame({"picture": [encode_image(each) for each in pixels], "digit": labels.astype(str)})
    known.to_csv(folder / "pictures.csv", index=False)
    (folder / "pictures.yaml").write_text(yaml.safe_dump(_DIGITS))
    generator = np.random.default_rng(1)
    chosen = pixels[generator.integers(0, len(pixels), num_records)]
    moved = [np.roll(each, generator.integers(-1, 2, 2), (0, 1)) for each in chosen]
    records = pd.DataFrame({"picture": [encode_image(each) for each in moved]})
    return "pictures", ("pictures.yaml", "--data", "pictures.csv"), records


def _fashion(folder: Path, num_records: int) -> tuple[str, tuple[str, ...], pd.DataFrame]:
    """Trains on the first 10,000 pictures of Fashion-MNIST; asks about later ones."""
    words = ("fashion_mnist", "--set", "data.limit=10000", "--set", "training.sampling_probability=0.1")
    return "fashion_mnist", words, load_dataset(FASHION, 10_000 + num_records).tail(num_records)


def _resample(records: pd.DataFrame, num_records: int) -> pd.DataFrame:
    """Returns records of which each cell is drawn from its column: real values, in new company."""
    generator = np.random.default_rng(1)
    drawn = {
        name: records[name].to_numpy()[generator.integers(0, len(records), num_records)] for name in records
    }
    return pd.DataFrame(drawn)


KINDS: dict[str, Kind] = {
    "logistic_regression": _breast_cancer("logistic_regression"),
    "mlp": _breast_cancer("mlp"),
    "wide_and_deep": _complaints,
    "cnn_8x8": _digits,
    "cnn_28x28": _fashion,
}
