"""Records: schema, readers, splits, counts and preprocessing. Knows nothing of models."""

from fedpipe.data.profile import PreprocessSettings
from fedpipe.data.schema import CategoricalColumn, Label, NumericColumn, Schema
from fedpipe.data.shard import Shard, commitment, open_shard
from fedpipe.data.transform import Transform

__all__ = [
    "CategoricalColumn",
    "Label",
    "NumericColumn",
    "PreprocessSettings",
    "Schema",
    "Shard",
    "Transform",
    "commitment",
    "open_shard",
]
