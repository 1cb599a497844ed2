"""The served model answers as a client would, without fedpipe, wherever it runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedpipe.data import Transform
from fedpipe.data.cells import parse_numbers
from fedpipe.data.transform import HashedFeature, NumericFeature, VocabularyFeature
from fedpipe.encoding.hashing import HASH_KEY, hash_bucket, hash_buckets
from fedpipe.errors import WorkspaceError
from fedpipe.learning import ModelDefinition, ModelSettings
from fedpipe.learning.architectures import predict
from fedpipe.learning.serving import export_model, load_signature, predict_frame
from fedpipe.learning.tensorflow_runtime import tf
from fedpipe.learning.vectors import Vector

TRANSFORM = Transform(
    features=(
        NumericFeature(column="age", lower=-3.5, upper=97, center=31.25, scale=11.7),
        NumericFeature(column="income", lower=-1e9, upper=1e30, center=0.1, scale=3e9),
        VocabularyFeature(column="state", words=("ca", "new york", "i", "é", "İ", "7", "a b", "\x7f")),
        HashedFeature(column="company", num_buckets=16, buckets=tuple(range(0, 16, 2))),
        VocabularyFeature(column="no_words", words=()),
        HashedFeature(column="no_buckets", num_buckets=16, buckets=()),
    ),
    missing_tokens=("", "N/A", "nan", "-9"),
)
NASTY = (
    *("", " ", "\t", "N/A", "n/a ", "nan", "NaN", "None", "inf", "-inf", "Infinity", "1e400", "1e99"),
    *("0", "-0", "+1", "1.", ".5", "1.0", "01.000", "1e5", "1E+2", "1e", "e1", ".", "+", "--1", "-1e-99"),
    *(
        "1,5",
        "1 000",
        "1_000",
        "0x10",
        "\uff11\uff12",
        "١٢",
        "²",
        "9" * 31,
        "9" * 32,
        "9" * 500,
        "0." + "1" * 40,
    ),
    *(" 7 ", "\u00a07", "7.000", "1\x002", "1\x00", "\x00", "a\x00b", "A\x00c", "a\r\nb", "a\u0085b"),
    *(
        "ca",
        "Ca",
        " NEW\n\vYORK\f",
        "I",
        "i",
        "\u0131",
        "İ",
        "Σ",
        "ΑΣ",
        "ß",
        "ẞ",
        "É",
        "é",
        "e\u0301",
        "\ufeffa",
    ),
    *("🙂", "👩\u200d🔬", "\U00010570", "x" * 5000, "0.1", "3.3333333333333335", "123456789.123456789"),
    *("1" * 20 + ".5e-20", "-9", "-9.0", "-09", "\x7f", "'\"\\"),
)
SCRIPT = """
import json, sys
sys.modules["fedpipe"] = None
import numpy as np
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
answer = model.signatures["serving_default"]
columns = json.load(open(sys.argv[2]))
def ask(repeat):
    cells = {name: tf.constant((cells * repeat)[:repeat and 1000] or np.zeros([0]), tf.string)[:, None]
             for name, cells in columns.items()}
    return answer(**cells)["probability"].numpy().tolist()
names = [name.decode() for name in model.class_names.numpy()]
json.dump({"none": ask(0), "many": ask(1000), "names": names}, open(sys.argv[3], "w"))
"""


def make_frame(cells: tuple[str, ...] | list[str]) -> pd.DataFrame:
    return pd.DataFrame({name: list(cells) for name in TRANSFORM.columns}, dtype=object)


def define(classes: int, kind: str = "logistic_regression") -> tuple[ModelDefinition, Vector]:
    settings = ModelSettings.model_validate({"type": kind, "hidden_units": (5,)})
    definition = ModelDefinition(settings=settings, num_features=TRANSFORM.num_features, num_classes=classes)
    inputs, logits = TRANSFORM.num_features, definition.num_logits
    size = (inputs + 1) * logits if kind != "mlp" else (inputs + 1) * 5 + 6 * logits
    return definition, np.random.default_rng(5).normal(size=size).astype(np.float32)


def export(directory: Path, definition: ModelDefinition, weights: Vector) -> Path:
    names = tuple(f"class {number}" for number in range(definition.num_classes))
    export_model(directory, transform=TRANSFORM, definition=definition, weights=weights, class_names=names)
    return directory


def serve(signature: Any, frame: pd.DataFrame) -> NDArray[np.float32]:
    cells = {name: tf.constant(frame[name].tolist(), tf.string)[:, tf.newaxis] for name in TRANSFORM.columns}
    return np.asarray(signature(**cells)["probability"])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("served") / "1", *define(2))


@pytest.fixture(scope="module")
def signature(exported: Path) -> Any:
    loaded = tf.saved_model.load(str(exported))
    answer = loaded.signatures["serving_default"]
    answer.owner = loaded
    return answer


def test_nasty_cells_are_answered_as_at_a_client(signature: Any) -> None:
    frame = make_frame(NASTY)
    expected = predict(*define(2), TRANSFORM.encode(frame))
    np.testing.assert_allclose(serve(signature, frame)[:, 0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("column", ["age", "income", "state", "company"])
def test_nasty_cells_of_one_column_are_answered_as_at_a_client(signature: Any, column: str) -> None:
    frame = make_frame(["0"] * len(NASTY))
    frame[column] = NASTY
    expected = predict(*define(2), TRANSFORM.encode(frame))
    np.testing.assert_allclose(serve(signature, frame)[:, 0], expected, rtol=0, atol=1e-6)
    assert len(np.unique(expected)) >= 4


@given(cells=st.lists(st.text(), min_size=1, max_size=20))
def test_any_text_is_answered_as_at_a_client(signature: Any, cells: list[str]) -> None:
    frame = make_frame(cells)
    expected = predict(*define(2), TRANSFORM.encode(frame))
    np.testing.assert_allclose(serve(signature, frame)[:, 0], expected, rtol=0, atol=1e-6)


@given(cells=st.lists(st.from_regex(r"[+-]?[0-9]*\.?[0-9]*([eE][+-]?[0-9]*)?", fullmatch=True), min_size=1))
def test_any_number_is_answered_as_at_a_client(signature: Any, cells: list[str]) -> None:
    frame = make_frame(cells)
    expected = predict(*define(2), TRANSFORM.encode(frame))
    np.testing.assert_allclose(serve(signature, frame)[:, 0], expected, rtol=0, atol=1e-6)


@given(st.floats(allow_nan=False, allow_infinity=False).map(repr))
def test_numbers_are_parsed_to_the_last_bit_alike(text: str) -> None:
    number = parse_numbers(pd.Series([text], dtype=object))[0]
    assert np.isnan(number) or tf.strings.to_number(text, tf.float64).numpy() == number


@given(st.lists(st.text(), min_size=1, max_size=20), st.integers(1, 100_000))
def test_hash_is_that_of_tensorflow(texts: list[str], num_buckets: int) -> None:
    expected = tf.strings.to_hash_bucket_strong(texts, num_buckets, key=list(HASH_KEY)).numpy().tolist()
    assert hash_buckets(texts, num_buckets).tolist() == expected
    assert hash_bucket(texts[0], num_buckets) == expected[0]


@pytest.mark.parametrize(("classes", "kind"), [(2, "mlp"), (10, "logistic_regression"), (10, "mlp")])
def test_other_models_are_answered_as_at_a_client(tmp_path: Path, classes: int, kind: str) -> None:
    definition, weights = define(classes, kind)
    answer = load_signature(export(tmp_path / "1", definition, weights))
    frame = make_frame(NASTY)
    scores = predict_frame(answer, frame, TRANSFORM.columns, batch_size=7)
    assert scores.shape == ((len(NASTY),) if classes == 2 else (len(NASTY), 10))
    expected = predict(definition, weights, TRANSFORM.encode(frame))
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_any_batch_size_is_answered(signature: Any, size: int) -> None:
    frame = make_frame((NASTY * 20)[:size])
    assert serve(signature, frame).shape == (size, 1)
    assert predict_frame(signature, frame, TRANSFORM.columns).shape == (size,)


def test_bytes_that_are_no_text_are_answered(signature: Any) -> None:
    cells = tf.constant([[b"\xff\xfe"], [b"CA\xc3"], [b"\xf0\x9f"]])
    answer = signature(**dict.fromkeys(TRANSFORM.columns, cells))["probability"].numpy()
    assert np.isfinite(answer).all()


def test_signature_takes_one_string_column_each(signature: Any) -> None:
    inputs = signature.structured_input_signature[1]
    assert set(inputs) == set(TRANSFORM.columns)
    for name, spec in inputs.items():
        assert (spec.name, spec.dtype, spec.shape.as_list()) == (name, tf.string, [None, 1])


@pytest.mark.parametrize(
    "empty", [VocabularyFeature(column="x", words=()), HashedFeature(column="x", num_buckets=4, buckets=())]
)
def test_model_without_any_kept_value_is_served(
    tmp_path: Path, empty: VocabularyFeature | HashedFeature
) -> None:
    definition = ModelDefinition(settings=ModelSettings.model_validate({}), num_features=1, num_classes=2)
    weights = np.array([1, 1], np.float32)
    transform = Transform(features=(empty,), missing_tokens=())
    export_model(
        tmp_path / "1", transform=transform, definition=definition, weights=weights, class_names=("no", "yes")
    )
    answer = load_signature(tmp_path / "1")(x=tf.constant([["CA"], [""]]))["probability"].numpy()
    np.testing.assert_allclose(answer[:, 0], 1 / (1 + np.exp(-2)), rtol=1e-6)


def test_model_is_served_without_fedpipe_in_any_locale(exported: Path, tmp_path: Path) -> None:
    cells = [*NASTY, "TITLE IN CAPITALS"]
    (tmp_path / "cells.json").write_text(json.dumps(dict.fromkeys(TRANSFORM.columns, cells)))
    (tmp_path / "script.py").write_text(SCRIPT)
    # In a Turkish locale the lower case of I is not i.
    environment = {**os.environ, "LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-I", "script.py", str(exported), "cells.json", "answer.json"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert answer["names"] == ["class 0", "class 1"]
    assert answer["none"] == []
    expected = predict(*define(2), TRANSFORM.encode(make_frame((cells * 1000)[:1000])))
    np.testing.assert_allclose(np.ravel(answer["many"]), expected, rtol=0, atol=1e-6)


def test_a_model_that_cannot_be_written_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", full)
    with pytest.raises(WorkspaceError, match=r"ResourceExhaustedError.*make room"):
        export(tmp_path, *define(2))
