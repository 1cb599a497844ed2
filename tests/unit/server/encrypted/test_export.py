"""What the parties are to compute is what the deployed model computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedpipe.data import Transform
from fedpipe.encoding.media import encode_image
from fedpipe.encrypted.client import probabilities
from fedpipe.encrypted.dense import DensePart, evaluate
from fedpipe.errors import ConfigError, EncryptedError, WorkspaceError
from fedpipe.learning import ModelDefinition, ModelSettings
from fedpipe.learning.architectures import build_model
from fedpipe.learning.serving import export_model, load_signature, predict_frame
from fedpipe.learning.vectors import flatten
from server.artifacts import ModelVersion
from server.encrypted.export import describe_version, export_dense

AGE = {"type": "numeric", "column": "age", "lower": 0.0, "upper": 99.0, "center": 40.0, "scale": 20.0}
STATE = {"type": "vocabulary", "column": "state", "words": ["ca", "ny", "tx"]}
COMPANY = {"type": "hashed", "column": "company", "num_buckets": 50, "buckets": list(range(0, 50, 3))}
STORY = {"type": "text", "column": "story", "num_buckets": 64, "ngrams": 2}
PICTURE = {"type": "image", "column": "picture", "shape": [10, 9, 1]}
LARGE_PICTURE = {"type": "image", "column": "picture", "shape": [28, 28, 1]}
CASES = {
    "logistic_regression": ([AGE, STATE, COMPANY], 2),
    "mlp": ([AGE, STATE, STORY], 2),
    "mlp of three classes": ([AGE, STATE, COMPANY], 3),
    "wide_and_deep": ([AGE, STORY, STATE, COMPANY], 2),
    "wide_and_deep without text": ([AGE, STATE, COMPANY], 3),
    "cnn": ([PICTURE], 4),
    "cnn of a larger picture": ([LARGE_PICTURE], 10),
}
Case = tuple[ModelVersion, Path]


def make_frame(num_rows: int) -> pd.DataFrame:
    generator = np.random.default_rng(3)
    words = np.array(["late", "fee", "bank", "card", "refused", "to", "pay", "ca", "tx", "acme", ""])
    return pd.DataFrame(
        {
            "age": [str(value) for value in generator.integers(-5, 120, num_rows)],
            "state": generator.choice(words, num_rows),
            "company": generator.choice(words, num_rows),
            "story": [" ".join(generator.choice(words, 12)) for _ in range(num_rows)],
        },
        dtype=object,
    )


def make_pictures(shape: list[int], num_rows: int) -> pd.DataFrame:
    pixels = np.random.default_rng(3).integers(0, 256, (num_rows, *shape), dtype=np.uint8)
    return pd.DataFrame({"picture": [encode_image(picture) for picture in pixels]}, dtype=object)


def build(name: str, directory: Path, make_version: Callable[..., ModelVersion]) -> Case:
    features, num_classes = CASES[name]
    transform = Transform.model_validate({"features": features, "missing_tokens": ["", "n/a"]})
    settings = ModelSettings(type=name.split(" ")[0], hidden_units=(7, 5))  # type: ignore[arg-type]
    definition = ModelDefinition.make(settings, transform, num_classes)
    generator = np.random.default_rng(5)
    shapes = [tuple(weight.shape) for weight in build_model(definition).trainable_variables]
    weights = flatten([generator.normal(0, 0.5, shape).astype(np.float32) for shape in shapes])
    names = tuple(f"class {number}" for number in range(num_classes))
    export_model(directory, transform=transform, definition=definition, weights=weights, class_names=names)
    return (
        make_version(
            transform=transform, definition=definition, class_names=names, columns=transform.columns
        ),
        directory,
    )


@pytest.fixture(scope="module")
def built() -> dict[str, Case]:
    """The cases that some test of this module has built: TensorFlow takes seconds for each."""
    return {}


@pytest.fixture(params=CASES)
def case(
    request: pytest.FixtureRequest,
    built: dict[str, Case],
    tmp_path_factory: pytest.TempPathFactory,
    make_version: Callable[..., ModelVersion],
) -> Case:
    name = request.param
    if name not in built:
        built[name] = build(name, tmp_path_factory.mktemp("served") / "1", make_version)
    return built[name]


def records(version: ModelVersion) -> pd.DataFrame:
    feature = version.transform.features[0]
    if feature.type == "image":
        return make_pictures(list(feature.shape), 200)
    return make_frame(400)


def test_dense_part_gives_the_served_probabilities(case: Case) -> None:
    version, directory = case
    part = export_dense(version, directory)
    frame = records(version)
    served = predict_frame(load_signature(directory), frame, version.columns)
    found = probabilities(evaluate(part, version.transform.encode(frame)))
    np.testing.assert_allclose(found[:, 1] if served.ndim == 1 else found, served, atol=1e-5)
    assert np.ptp(served) > 0.1


def test_no_logit_exceeds_what_the_card_says(case: Case) -> None:
    version, directory = case
    part = export_dense(version, directory)
    limits = describe_version(version, part)["limits"]
    inputs = version.transform.encode(records(version))
    assert np.abs(evaluate(part, inputs)).max() <= limits["max_output"]
    assert np.abs(inputs).max() <= limits["max_magnitude"]
    assert np.log2(limits["max_output"]) % 1 == 0  # finer bounds would tell more of the weights


def test_model_that_could_overflow_is_refused(
    tmp_path: Path, make_version: Callable[..., ModelVersion]
) -> None:
    version, directory = build("logistic_regression", tmp_path / "1", make_version)
    age, *others = version.transform.model_dump(mode="json")["features"]
    transform = Transform.model_validate(
        {"features": [{**age, "upper": 1e15}, *others], "missing_tokens": []}
    )
    with pytest.raises(EncryptedError, match="below 2\\^30"):
        export_dense(version.model_copy(update={"transform": transform}), directory)


def test_weights_of_another_model_are_refused(
    tmp_path: Path, make_version: Callable[..., ModelVersion]
) -> None:
    version, _ = build("mlp", tmp_path / "1", make_version)
    _, directory = build("logistic_regression", tmp_path / "2", make_version)
    for wrong in (directory, tmp_path / "nothing"):
        with pytest.raises(WorkspaceError, match="deploy it again"):
            export_dense(version, wrong)


def test_custom_model_is_refused(tmp_path: Path, make_version: Callable[..., ModelVersion]) -> None:
    version, directory = build("logistic_regression", tmp_path / "1", make_version)
    settings = ModelSettings(type="custom", builder="somewhere:build")
    definition = version.definition.model_copy(update={"settings": settings})
    with pytest.raises(ConfigError, match="found custom"):
        export_dense(version.model_copy(update={"definition": definition}), directory)


def test_weights_stay_out_of_messages() -> None:
    part = DensePart(layers=(), weights=(np.array([[0.123456]]),), input_width=1)
    assert "0.123456" not in repr(part)


def test_card_holds_only_what_is_public(case: Case) -> None:
    version, directory = case
    card: dict[str, Any] = describe_version(version, export_dense(version, directory))
    assert card["transform"] == version.transform.model_dump(mode="json")
    assert set(card) == {
        *("model", "version", "certificate", "privacy", "transform", "columns", "input_width", "num_outputs"),
        *("activation", "class_names", "fixed_point", "limits", "reveals"),
    }
