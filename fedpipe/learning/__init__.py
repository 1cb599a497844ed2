"""Models, local training, evaluation and the served model.

Modules that need TensorFlow are imported by name where tensors are needed, never from here.
"""

from fedpipe.learning.definition import ModelDefinition, ModelSettings, TrainingSettings

__all__ = ["ModelDefinition", "ModelSettings", "TrainingSettings"]
