"""Joins concurrent requests for one model version into larger calls.

A request that comes alone runs at once. Once several were seen together, a batch waits for about as
many, since callers that were answered together ask again together; but only while they keep coming.
Everything but `_run_elsewhere` happens on the event loop.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.prediction.errors import Code, ServingError
from server.prediction.servable import Arrays
from server.prediction.signatures import Signature

# To receive a request takes 0.2 ms: while more of them come at this distance, waiting costs nothing.
_QUIET_SECONDS = 0.001
_WAIT_SECONDS = 0.004
_SMOOTHING = 0.25
# One batch in so many waits for one request more than the last had: it may find that there are many.
_EXPLORING = 8
_FORGETTING = 0.02
# With one core there is nothing to gain from another thread until callers notice that nobody listens.
_INLINE_SECONDS, _INLINE_SECONDS_ON_ONE_CORE = 0.0007, 0.005

Run = Callable[[Signature, Sequence[NDArray[Any]], tuple[str, ...]], Arrays]
Observe = Callable[[int, int], None]


@dataclass(kw_only=True, slots=True, eq=False)
class _Call:
    signature: Signature
    inputs: Arrays
    outputs: tuple[str, ...]
    num_rows: int
    key: Hashable
    answer: asyncio.Future[Arrays]
    result: Arrays | BaseException | None = field(default=None)


class _Duration:
    """How long calls take: rises with the slowest at once, falls slowly, and starts unknown."""

    def __init__(self) -> None:
        self._seconds = math.inf

    def observe(self, seconds: float) -> None:
        known = self._seconds if math.isfinite(self._seconds) else seconds
        self._seconds = max(seconds, known + _FORGETTING * (seconds - known))

    def expected(self) -> float:
        return self._seconds


class Batcher:
    """Runs calls of one model on `executor`, joined where that cannot change an answer's meaning.

    Args:
      run: the model; may block.
      max_rows: of joined calls. A single call may be larger and then runs alone.
      max_parallel: calls of the model under way at once.
      observe: is told (number of joined requests, number of rows) of each call.
    """

    def __init__(
        self,
        run: Run,
        executor: Executor,
        *,
        max_rows: int,
        max_parallel: int,
        observe: Observe = lambda requests, rows: None,
    ) -> None:
        self._run_model = run
        self._executor = executor
        self._max_rows = max_rows
        self._max_parallel = max_parallel
        self._observe = observe
        self._waiting: deque[_Call] = deque()
        self._num_running = 0
        self._together = 1.0
        self._num_batches = 0
        self._last_arrival = 0.0
        self._latest_start = 0.0
        self._inline_seconds = _INLINE_SECONDS if max_parallel > 1 else _INLINE_SECONDS_ON_ONE_CORE
        self._seconds = _Duration()
        self._timer: asyncio.Handle | None = None

    async def submit(
        self,
        signature: Signature,
        inputs: Arrays,
        outputs: tuple[str, ...],
        *,
        timeout_seconds: float,
    ) -> Arrays:
        """Returns the outputs for these inputs.

        Raises:
          ServingError: the model refuses them, or the time is up.
        """
        loop = asyncio.get_running_loop()
        num_rows, key = _batch_key(signature, inputs, outputs)
        call = _Call(
            signature=signature,
            inputs=inputs,
            outputs=outputs,
            num_rows=num_rows,
            key=key,
            answer=loop.create_future(),
        )
        timer = loop.call_later(timeout_seconds, _expire, call)
        self._waiting.append(call)
        self._last_arrival = loop.time()
        self._schedule(loop)
        try:
            return await call.answer
        finally:
            timer.cancel()

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        """Starts what waits: at once if that is as much as can be hoped for, else when no more comes."""
        if self._num_running >= self._max_parallel:
            return
        enough = len(self._waiting) >= self._hoped_for()
        if self._timer is None:
            self._latest_start = self._last_arrival + _WAIT_SECONDS
            self._timer = self._soon(loop) if enough else self._later(loop, _QUIET_SECONDS)
        elif enough and isinstance(self._timer, asyncio.TimerHandle):
            self._timer.cancel()
            self._timer = self._soon(loop)

    def _hoped_for(self) -> int:
        # Rounded: an average that sinks towards one never quite arrives.
        known = round(self._together)
        return known + (known > 1 and self._num_batches % _EXPLORING == 0)

    def _soon(self, loop: asyncio.AbstractEventLoop) -> asyncio.Handle:
        return loop.call_soon(self._start, loop)

    def _later(self, loop: asyncio.AbstractEventLoop, seconds: float) -> asyncio.TimerHandle:
        return loop.call_later(seconds, self._start_if_quiet, loop)

    def _start_if_quiet(self, loop: asyncio.AbstractEventLoop) -> None:
        left = min(self._last_arrival + _QUIET_SECONDS, self._latest_start) - loop.time()
        if left > 0:
            self._timer = self._later(loop, left)
        else:
            self._start(loop)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        self._learn(len(self._waiting))
        while self._waiting and self._num_running < self._max_parallel:
            calls = self._next_calls()
            if calls:
                self._num_running += 1
                self._observe(len(calls), sum(call.num_rows for call in calls))
                self._launch(loop, calls)

    def _learn(self, together: int) -> None:
        self._num_batches += 1
        if together >= self._together:
            self._together = together
        else:
            self._together += _SMOOTHING * (together - self._together)

    def _launch(self, loop: asyncio.AbstractEventLoop, calls: list[_Call]) -> None:
        # A change of threads costs what a small model's whole answer does: such a one runs here and now.
        if self._seconds.expected() < self._inline_seconds:
            self._run(calls)
            self._finish(loop, calls)
        else:
            self._executor.submit(self._run_elsewhere, loop, calls)

    def _next_calls(self) -> list[_Call]:
        """Returns the oldest call, and with it those waiting calls that may join it."""
        chosen: list[_Call] = []
        others: deque[_Call] = deque()
        num_rows = 0
        while self._waiting:
            call = self._waiting.popleft()
            if call.answer.done():
                continue  # expired, or the client is gone
            if not chosen or (call.key == chosen[0].key and num_rows + call.num_rows <= self._max_rows):
                chosen.append(call)
                num_rows += call.num_rows
                if call.num_rows == 0 or num_rows >= self._max_rows:
                    break
            else:
                others.append(call)
        others.extend(self._waiting)
        self._waiting = others
        return chosen

    def _run_elsewhere(self, loop: asyncio.AbstractEventLoop, calls: list[_Call]) -> None:
        """In a thread of the executor."""
        try:
            self._run(calls)
        finally:
            loop.call_soon_threadsafe(self._finish, loop, calls)

    def _run(self, calls: list[_Call]) -> None:
        """Fills in the results of `calls`; apart, if together they fail."""
        start = time.perf_counter()
        if len(calls) == 1:
            self._run_alone(calls[0])
        else:
            self._run_joined(calls)
        self._seconds.observe(time.perf_counter() - start)

    def _run_alone(self, call: _Call) -> None:
        try:
            call.result = self._run_model(call.signature, call.inputs, call.outputs)
        except Exception as error:
            call.result = error

    def _run_joined(self, calls: list[_Call]) -> None:
        first = calls[0]
        ends = np.cumsum([call.num_rows for call in calls]).tolist()
        try:
            joined = [np.concatenate(column) for column in zip(*(call.inputs for call in calls), strict=True)]
            arrays = self._run_model(first.signature, joined, first.outputs)
        except Exception:
            arrays = []
        # A model whose outputs do not follow its rows was asked a question it does not understand.
        if not arrays or any(array.shape[:1] != (ends[-1],) for array in arrays):
            for call in calls:
                self._run_alone(call)
            return
        start = 0
        for call, end in zip(calls, ends, strict=True):
            call.result = [array[start:end] for array in arrays]
            start = end

    def _finish(self, loop: asyncio.AbstractEventLoop, calls: list[_Call]) -> None:
        self._num_running -= 1
        for call in calls:
            if call.answer.done():
                continue
            if isinstance(call.result, list):
                call.answer.set_result(call.result)
            else:
                call.answer.set_exception(
                    call.result or ServingError(Code.INTERNAL, "The model gave no answer.")
                )
        if self._waiting:
            self._schedule(loop)


def _batch_key(signature: Signature, inputs: Arrays, outputs: tuple[str, ...]) -> tuple[int, Hashable]:
    """Returns the number of rows and what calls must have in common to be joined; a lone call has 0 rows."""
    if not signature.batchable or any(array.ndim == 0 for array in inputs):
        return 0, None
    num_rows = len(inputs[0])
    if any(len(array) != num_rows for array in inputs):
        return 0, None
    return num_rows, (signature.name, outputs, *[array.shape[1:] for array in inputs])


def _expire(call: _Call) -> None:
    if not call.answer.done():
        call.answer.set_exception(
            ServingError(Code.DEADLINE_EXCEEDED, "The model did not answer within the time allowed.")
        )
