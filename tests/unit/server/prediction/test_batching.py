"""Requests are joined where that changes nothing but the time they take."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.prediction.batching import Batcher
from server.prediction.errors import Code, ServingError
from server.prediction.servable import Servable
from server.prediction.signatures import Signature, TensorSpec
from tests.unit.server.prediction.conftest import floats

SPEC = TensorSpec(name="x", tensor="x:0", dtype=np.dtype(np.float32), data_type=1, shape=(None, None))
SIGNATURE = Signature(
    name="s", method_name="", inputs={"x": SPEC}, outputs={"y": SPEC}, batchable=True, is_dense=True
)


class Model:
    """Doubles its input; refuses negative rows; notes what it was asked."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def run(self, signature: Signature, inputs: Any, outputs: tuple[str, ...]) -> Any:
        self.gate.wait(10)
        self.sizes.append(len(inputs[0]))
        if (inputs[0] < 0).any():
            raise ServingError(Code.INVALID_ARGUMENT, "negative")
        return [inputs[0] * 2]


def batch(model: Model, rows: list[Any], *, max_rows: int = 64, timeout_seconds: float = 5.0) -> list[Any]:
    """Returns the answers to concurrent requests, after a first one has occupied the model."""

    async def run() -> list[Any]:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(model.run, executor, max_rows=max_rows, max_parallel=1)

            def submit(array: Any) -> Any:
                return batcher.submit(SIGNATURE, [array], ("y",), timeout_seconds=timeout_seconds)

            first = asyncio.ensure_future(submit(np.zeros((1, 9), np.float32)))
            await asyncio.sleep(0.01)
            found = asyncio.gather(*map(submit, rows), return_exceptions=True)
            await asyncio.sleep(0.05)
            model.gate.set()
            await asyncio.gather(first, return_exceptions=True)
            return await found

    return asyncio.run(run())


def busy() -> Model:
    model = Model()
    model.gate.clear()
    return model


def test_concurrent_requests_are_joined_and_taken_apart_again() -> None:
    model = busy()
    rows = [np.full((size, 1), size, np.float32) for size in (1, 3, 2)]
    answers = batch(model, rows)
    assert model.sizes == [1, 6]
    for array, answer in zip(rows, answers, strict=True):
        np.testing.assert_array_equal(answer[0], array * 2)


def test_batches_stay_below_their_limit() -> None:
    model = busy()
    batch(model, [np.ones((2, 1), np.float32)] * 5, max_rows=4)
    assert model.sizes == [1, 4, 4, 2]


def test_a_request_above_the_limit_goes_alone() -> None:
    model = busy()
    answers = batch(model, [np.ones((9, 1), np.float32), np.ones((1, 1), np.float32)], max_rows=4)
    assert model.sizes == [1, 9, 1]
    assert len(answers[0][0]) == 9


def test_other_inner_shapes_are_not_joined() -> None:
    model = busy()
    batch(model, [np.ones((1, 1), np.float32), np.ones((1, 2), np.float32), np.ones((1, 1), np.float32)])
    assert model.sizes == [1, 2, 1]


def test_one_bad_request_fails_alone() -> None:
    model = busy()
    good, bad, other = batch(model, [floats([1.0]), floats([-1.0]), floats([3.0])])
    assert (good[0].tolist(), other[0].tolist()) == ([[2.0]], [[6.0]])
    assert isinstance(bad, ServingError)


def test_time_runs_out_while_waiting() -> None:
    model = busy()
    (answer,) = batch(model, [floats([1.0])], timeout_seconds=0.01)
    assert isinstance(answer, ServingError)
    assert answer.code is Code.DEADLINE_EXCEEDED
    assert model.sizes == [1]


def test_a_lone_request_does_not_wait_for_others() -> None:
    async def run() -> bool:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(Model().run, executor, max_rows=8, max_parallel=1)
            for _ in range(5):
                await batcher.submit(SIGNATURE, [floats([1.0])], ("y",), timeout_seconds=5)
            pending = asyncio.ensure_future(
                batcher.submit(SIGNATURE, [floats([1.0])], ("y",), timeout_seconds=5)
            )
            await asyncio.sleep(0)
            timer = batcher._timer
            await pending
            return isinstance(timer, asyncio.TimerHandle)

    assert not asyncio.run(run())


def test_requests_that_come_alone_again_wait_no_more() -> None:
    async def run() -> bool:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(Model().run, executor, max_rows=64, max_parallel=1)

            def submit() -> Any:
                return batcher.submit(SIGNATURE, [floats([1.0])], ("y",), timeout_seconds=5)

            await asyncio.gather(*(submit() for _ in range(32)))
            for _ in range(20):
                await submit()
            pending = asyncio.ensure_future(submit())
            await asyncio.sleep(0)
            waits = isinstance(batcher._timer, asyncio.TimerHandle)
            await pending
            return waits

    assert not asyncio.run(run())


def test_a_model_whose_outputs_do_not_follow_its_rows_is_asked_one_by_one(half: Path) -> None:
    servable = Servable(half, num_threads=1)
    signature = servable.signatures["total"]
    assert signature.batchable

    async def run() -> Any:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(servable.run, executor, max_rows=8, max_parallel=1)
            requests = [
                batcher.submit(signature, [floats(1.0, 1.0, 2.0)], ("y",), timeout_seconds=5)
                for _ in range(4)
            ]
            return await asyncio.gather(*requests)

    try:
        assert [answer[0].tolist() for answer in asyncio.run(run())] == [[1.0, 2.0]] * 4
    finally:
        servable.close()


@pytest.mark.parametrize("name", ["scalar"])
def test_scalars_are_never_joined(half: Path, name: str) -> None:
    servable = Servable(half, num_threads=1)
    assert not servable.signatures[name].batchable
    servable.close()


def test_callers_that_ask_again_and_again_end_up_in_one_batch() -> None:
    num_callers, model = 12, Model()

    async def run() -> None:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(model.run, executor, max_rows=64, max_parallel=1)

            async def call() -> None:
                for _ in range(60):
                    await batcher.submit(SIGNATURE, [floats([1.0])], ("y",), timeout_seconds=30)
                    await asyncio.sleep(0)  # the way to the client and back

            async def call_later(number: int) -> None:
                await asyncio.sleep(0.0002 * number)
                await call()

            await asyncio.gather(*map(call_later, range(num_callers)))

    asyncio.run(run())
    middle = model.sizes[len(model.sizes) // 3 : len(model.sizes) // 2]
    assert np.median(middle) == num_callers
