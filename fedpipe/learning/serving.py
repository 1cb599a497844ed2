"""The deployed model: preprocessing and weights in one SavedModel, as TensorFlow Serving reads it.

`serving_default` takes one string tensor (n, 1) per schema column, as cells of text, and returns
`probability`: (n, 1) for two classes (of the positive one), else (n, num_classes). `classify`, and
for two classes `regress`, take serialized tf.Examples instead, whose features are the same cells as
bytes. Nothing of fedpipe is needed to load it. Each rule here is the twin of one in `fedpipe.data`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedpipe.data.transform import (
    Feature,
    HashedFeature,
    ImageFeature,
    NumericFeature,
    TextFeature,
    Transform,
    VectorFeature,
    VocabularyFeature,
)
from fedpipe.encoding.hashing import HASH_KEY
from fedpipe.encoding.media import BETWEEN_WORDS, base64_length
from fedpipe.encoding.text import NUMBER_LENGTH, NUMBER_PATTERN, normalize_text
from fedpipe.errors import WorkspaceError
from fedpipe.learning.architectures import build_model, probabilities
from fedpipe.learning.definition import ModelDefinition
from fedpipe.learning.tensorflow_runtime import tf
from fedpipe.learning.vectors import Vector, unflatten


def export_model(
    directory: Path,
    *,
    transform: Transform,
    definition: ModelDefinition,
    weights: Vector,
    class_names: tuple[str, ...],
) -> None:
    """Writes the SavedModel into `directory`.

    Raises:
      WorkspaceError: it cannot be written there, as on a full disk.
    """
    module = _ServedModel(transform, definition, weights, class_names)
    specs = {name: tf.TensorSpec([None, 1], tf.string, name=name) for name in transform.columns}
    examples = tf.TensorSpec([None], tf.string, name="inputs")
    signatures = {
        "serving_default": module.serve.get_concrete_function(specs),
        "classify": module.classify.get_concrete_function(examples),
    }
    if len(class_names) == 2:
        signatures["regress"] = module.regress.get_concrete_function(examples)
    try:
        tf.saved_model.save(module, str(directory), signatures=signatures)
    except tf.errors.OpError as error:  # where Python would raise OSError
        raise WorkspaceError(
            f"Expected to write a SavedModel into {directory}, found that TensorFlow cannot "
            f"({type(error).__name__}): make room on the disk, then go on with --resume."
        ) from error
    _set_method_names(directory, [name for name in signatures if name != "serving_default"])


def load_signature(directory: Path) -> Any:
    """Returns the `serving_default` function of a SavedModel, and keeps the model alive with it."""
    loaded = tf.saved_model.load(str(directory))
    signature = loaded.signatures["serving_default"]
    signature.owner = loaded
    return signature


def predict_frame(
    signature: Any, frame: pd.DataFrame, columns: Sequence[str], *, batch_size: int = 4096
) -> NDArray[np.float64]:
    """Returns probabilities for records as text: float64 (n,) for two classes, else (n, num_classes)."""
    parts = []
    for start in range(0, max(len(frame), 1), batch_size):
        batch = frame.iloc[start : start + batch_size]
        cells = {
            name: tf.constant(batch[name].to_numpy(dtype=object)[:, np.newaxis], tf.string)
            for name in columns
        }
        parts.append(signature(**cells)["probability"].numpy().astype(np.float64))
    scores: NDArray[np.float64] = np.concatenate(parts)
    return scores[:, 0] if scores.shape[1] == 1 else scores


class _ServedModel(tf.Module):
    def __init__(
        self, transform: Transform, definition: ModelDefinition, weights: Vector, class_names: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.model = build_model(definition)
        self.model.set_weights(unflatten(weights, [tuple(weight.shape) for weight in self.model.weights]))
        self.class_names = tf.Variable(
            class_names, trainable=False, dtype=tf.string
        )  # a constant is not saved
        self._columns = tuple(transform.columns)
        self._encoders = [_Encoder(feature, transform.missing_tokens) for feature in transform.features]

    @tf.function(autograph=False)
    def serve(self, columns: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        encoded = [encoder(columns[encoder.column][:, 0]) for encoder in self._encoders]
        return {"probability": probabilities(self.model(tf.concat(encoded, axis=1)))}

    @tf.function(autograph=False)
    def classify(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        scores = self._score_examples(examples)
        if scores.shape[1] == 1:
            scores = tf.concat([1.0 - scores, scores], axis=1)
        classes = tf.repeat(self.class_names[tf.newaxis, :], tf.shape(scores)[0], axis=0)
        return {"classes": classes, "scores": scores}

    @tf.function(autograph=False)
    def regress(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"outputs": self._score_examples(examples)}

    def _score_examples(self, examples: tf.Tensor) -> tf.Tensor:
        # A feature that an example lacks is an empty cell, which is a missing value.
        cell = tf.io.FixedLenFeature([1], tf.string, default_value=b"")
        cells = tf.io.parse_example(examples, dict.fromkeys(self._columns, cell))
        return self.serve(cells)["probability"]


def _set_method_names(directory: Path, names: Sequence[str]) -> None:
    """Marks signatures as what their names say: TensorFlow calls all that it saves `predict`."""
    updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(directory))
    for name in names:
        updater.replace_method_name(signature_key=name, method_name=f"tensorflow/serving/{name}")
    updater.save()


class _Encoder(tf.Module):
    """One feature's cells, string (n,), to float32 (n, width)."""

    def __init__(self, feature: Feature, missing_tokens: tuple[str, ...]) -> None:
        super().__init__()
        self.column = feature.column
        self._feature = feature
        self._missing = tf.constant([normalize_text(token) for token in missing_tokens], dtype=tf.string)
        self._table = _position_table(feature)

    def __call__(self, cells: tf.Tensor) -> tf.Tensor:
        text = _normalize(cells)
        missing = tf.reduce_any(text[:, tf.newaxis] == self._missing, axis=1)
        if isinstance(self._feature, NumericFeature):
            return _encode_numbers(self._feature, cells, missing)
        if isinstance(self._feature, TextFeature):
            return _count_ngrams(self._feature, tf.where(missing, "", text))
        if isinstance(self._feature, VectorFeature):
            return _parse_vectors(self._feature, cells)
        if isinstance(self._feature, ImageFeature):
            return _decode_images(self._feature, cells)
        if self._table is None:
            return tf.ones([tf.size(text), 1])
        if isinstance(self._feature, HashedFeature):
            buckets = tf.strings.to_hash_bucket_strong(text, self._feature.num_buckets, key=list(HASH_KEY))
            position = self._table.lookup(buckets)
        else:
            position = self._table.lookup(text)
        other = tf.constant(self._feature.width - 1, tf.int64)
        return tf.one_hot(tf.where(missing, other, position), self._feature.width)


def _position_table(feature: Feature) -> Any:
    if not isinstance(feature, (VocabularyFeature, HashedFeature)) or feature.width == 1:
        return None  # OTHER alone: TensorFlow has no empty tables
    keys: Any = feature.words if isinstance(feature, VocabularyFeature) else feature.buckets
    key_type = tf.string if isinstance(feature, VocabularyFeature) else tf.int64
    rows = tf.lookup.KeyValueTensorInitializer(
        tf.constant(keys, key_type), tf.range(len(keys), dtype=tf.int64), key_type, tf.int64
    )
    return tf.lookup.StaticHashTable(rows, default_value=len(keys))


def _normalize(cells: tf.Tensor) -> tf.Tensor:
    text = tf.strings.lower(cells)  # ASCII only: with an encoding, the server's locale would decide
    text = tf.strings.regex_replace(text, r"[\x00 \t\n\r\f\v]+", " ")
    text = tf.strings.regex_replace(text, r"^ | $", "")
    return tf.strings.regex_replace(text, r"^([+-]?[0-9]+)\.0*$", r"\1")


def _count_ngrams(feature: TextFeature, text: tf.Tensor) -> tf.Tensor:
    spaced = tf.strings.strip(tf.strings.regex_replace(text, BETWEEN_WORDS, " "))
    words = tf.strings.split(spaced, " ")
    words = tf.ragged.boolean_mask(words, words != "")
    sizes = list(range(1, feature.ngrams + 1))
    ngrams = tf.strings.ngrams(words, sizes, separator=" ")
    buckets = tf.strings.to_hash_bucket_strong(ngrams, feature.num_buckets, key=list(HASH_KEY))
    cells = tf.stack([buckets.value_rowids(), buckets.values], axis=1)
    shape = tf.stack([tf.size(text, tf.int64), tf.constant(feature.num_buckets, tf.int64)])
    present = tf.scatter_nd(cells, tf.ones_like(buckets.values, tf.float32), shape)
    present = tf.cast(present > 0, tf.float32)
    norms = tf.sqrt(tf.reduce_sum(present, axis=1, keepdims=True))
    return tf.ensure_shape(present / tf.maximum(norms, 1.0), [None, feature.num_buckets])


def _parse_vectors(feature: VectorFeature, cells: tf.Tensor) -> tf.Tensor:
    # Not tf.strings.split without a separator: it knows other white space than ASCII's.
    parts = tf.strings.split(tf.strings.regex_replace(cells, r"[ \t\n\r\f\v]+", " "), " ")
    parts = tf.ragged.boolean_mask(parts, parts != "")
    short = tf.strings.length(parts.values) <= NUMBER_LENGTH
    numeric = short & tf.strings.regex_full_match(parts.values, NUMBER_PATTERN)
    numbers = tf.strings.to_number(tf.where(numeric, parts.values, "0"), tf.float64)
    whole = (parts.row_lengths() == feature.size) & tf.reduce_all(parts.with_values(numeric), axis=1)
    dense = parts.with_values(tf.clip_by_value(numbers, -10.0, 10.0)).to_tensor(shape=[None, feature.size])
    return tf.cast(tf.where(whole[:, tf.newaxis], dense, 0.0), tf.float32)


def _decode_images(feature: ImageFeature, cells: tf.Tensor) -> tf.Tensor:
    length = base64_length(feature.width)
    usable = (tf.strings.length(cells) == length) & tf.strings.regex_full_match(cells, r"[0-9A-Za-z_-]*")
    black = "A" * length
    data = tf.io.decode_raw(
        tf.io.decode_base64(tf.where(usable, cells, black)), tf.uint8, fixed_length=feature.width
    )
    return tf.cast(data, tf.float32) / 255.0


def _encode_numbers(feature: NumericFeature, cells: tf.Tensor, missing: tf.Tensor) -> tf.Tensor:
    text = tf.strings.strip(cells)
    short = tf.strings.length(text) <= NUMBER_LENGTH
    usable = short & tf.strings.regex_full_match(text, NUMBER_PATTERN) & ~missing
    numbers = tf.strings.to_number(tf.where(usable, text, "0"), tf.float64)
    clipped = tf.clip_by_value(numbers, feature.lower, feature.upper)
    scaled = (clipped - feature.center) / feature.scale
    return tf.cast(tf.where(usable, scaled, 0.0), tf.float32)[:, tf.newaxis]
