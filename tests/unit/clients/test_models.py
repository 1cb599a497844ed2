from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from clients.models import LARGE_BYTES, forget_models, is_large
from fedpipe.federation import Request
from fedpipe.learning import ModelDefinition, ModelSettings
from fedpipe.learning.architectures import predict
from fedpipe.learning.kernel import make_kernel
from fedpipe.learning.local_task import LocalTask


@pytest.mark.parametrize(("num_bytes", "large"), [(LARGE_BYTES, False), (LARGE_BYTES + 4, True)])
def test_a_request_with_the_weights_of_a_large_model_is_known(num_bytes: int, large: bool) -> None:
    weights = np.zeros(num_bytes // 4, np.float32)
    assert is_large(Request(run_id="r1", step="train", arrays={"weights": weights})) == large
    assert not is_large(Request(run_id="r1", step="finish"))


def test_nothing_of_a_forgotten_model_stays() -> None:
    settings = ModelSettings.model_validate({"type": "mlp", "hidden_units": (7,)})
    definition = ModelDefinition(settings=settings, num_features=3, num_classes=2)
    kernel = make_kernel("book_keeping", definition)
    weights, features = np.zeros(36, np.float32), np.ones((4, 3), np.float32)
    task = LocalTask(
        weights=weights,
        features=features,
        labels=np.zeros(4, np.int32),
        batches=[np.arange(4, dtype=np.int32)],
        noise=np.zeros((1, 36), np.float32),
        clipping_norm=1.0,
        local_step_size=0.1,
    )
    before = kernel.noisy_sums(task)
    scores = predict(definition, weights, features)
    kept = weakref.ref(kernel)
    del kernel

    forget_models()
    gc.collect()

    assert kept() is None
    np.testing.assert_array_equal(make_kernel("book_keeping", definition).noisy_sums(task), before)
    np.testing.assert_array_equal(predict(definition, weights, features), scores)
