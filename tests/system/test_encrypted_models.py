"""Versions of the larger models, trained here, answer on shares as where they are served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from fedpipe.encrypted import provisioning
from tests.system.conftest import Shell
from tests.system.encrypted_service import check_agreement, train, up

pytestmark = pytest.mark.slow

DIGITS = {
    "name": "pictures",
    "schema": {
        "label": {"name": "digit", "classes": {str(digit): [] for digit in range(10)}},
        "columns": {"picture": {"type": "image", "height": 8, "width": 8}},
    },
    "federation": {"num_clients": 3},
    "model": {"name": "pictures", "type": "cnn"},
    "training": {"num_rounds": 3},
}


def complaints(folder: Path) -> tuple[tuple[str, ...], pd.DataFrame]:
    """Returns words for a run with a wide-and-deep model, and records for it."""
    from simulations.complaints import synthetic_complaints

    settings = ("model.type=wide_and_deep", "model.hidden_units=[16, 4]", "data.limit=2000")
    words = [word for each in (*settings, "training.num_rounds=3") for word in ("--set", each)]
    return ("complaints", *words), synthetic_complaints(512, seed=3)


def pictures(folder: Path) -> tuple[tuple[str, ...], pd.DataFrame]:
    """Returns words for a run with a small CNN, and records for it."""
    from sklearn.datasets import load_digits

    from fedpipe.encoding.media import encode_image

    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    frame = pd.DataFrame(
        {"picture": [encode_image(each) for each in pixels], "digit": labels.astype(str)}, dtype=object
    )
    frame.to_csv(folder / "pictures.csv", index=False)
    (folder / "pictures.yaml").write_text(yaml.safe_dump(DIGITS))
    return ("pictures.yaml", "--data", "pictures.csv"), frame.head(48)


@pytest.mark.parametrize(
    ("name", "make", "bucket"), [("complaints", complaints, 128), ("pictures", pictures, 16)]
)
def test_model_answers_as_where_it_is_served(name: str, make: Any, bucket: int, tmp_path: Path) -> None:
    from fedpipe.learning.serving import load_signature, predict_frame

    provisioning.install(provisioning.default_home(), print)
    shell = Shell(tmp_path)
    words, frame = make(tmp_path)
    train(shell, *words)
    with (
        up(shell, name, "--operator-sees-rows", "--buckets", str(bucket)) as service,
        service.active(timeout_seconds=300) as client,
    ):
        frame = frame[list(client.card.transform.columns)].fillna("").astype(str).astype(object)
        found = client.predict(frame.to_dict("records"))
    served = predict_frame(load_signature(tmp_path / "w/models" / name / "1"), frame, list(frame.columns))
    check_agreement(found.probabilities, served)
