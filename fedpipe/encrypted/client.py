"""Asks for predictions on rows that leave this machine as secret shares only.

A row is encoded here, shared here, and its logits are joined here. Nothing is logged.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedpipe.encrypted.card import ModelCard
from fedpipe.encrypted.channels import Channels, OtherVersionError, PassingError
from fedpipe.encrypted.rows import Place, Row, encode_cells, encode_rows
from fedpipe.encrypted.shares import decode_fixed, encode_fixed, reconstruct, share
from fedpipe.encrypted.transform import Cells
from fedpipe.errors import EncryptedError

Result = TypeVar("Result")
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Probabilities, and the model version and privacy certificate that they come from.

    Attributes:
      probabilities: float64 (n, num_classes), in the order of `class_names`.
      certificate: SHA-256 of the privacy certificate's canonical JSON.
      operator_sees_rows: whoever runs the service could have seen the rows.
    """

    model: str
    version: int
    certificate: str
    privacy: str
    operator_sees_rows: bool
    class_names: tuple[str, ...]
    probabilities: Floats

    @property
    def labels(self) -> tuple[str, ...]:
        """The likeliest class of each row; of two equal ones the positive, as the served model has it."""
        if len(self.class_names) == 2:
            indices = (self.probabilities[:, 1] >= 0.5).astype(int)
        else:
            indices = self.probabilities.argmax(axis=1)
        return tuple(self.class_names[index] for index in indices)


class EncryptedClient:
    """A connection to an encrypted prediction service; close it, or use it in `with`.

    Args:
      url: the front end; https unless it is on this machine.
      key: the front end's key for you, if it wants one.
      verify: True, or an `ssl.SSLContext` that knows the certificate authority of front end and parties.
      version: answers of another version are refused; None takes the one that is served.
      certificate: likewise, by the SHA-256 of the privacy certificate.
      timeout_seconds: for any one batch of rows, all its attempts included.
      attempts: how often a batch is tried, each time with fresh shares.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        verify: Any = True,
        version: int | None = None,
        certificate: str | None = None,
        timeout_seconds: float = 60.0,
        attempts: int = 3,
    ) -> None:
        self._channels = Channels(url, key=key, verify=verify)
        self._pinned = {"version": version, "certificate": certificate}
        self._timeout_seconds = timeout_seconds
        self._attempts = attempts
        self._card: ModelCard | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="encrypted", daemon=True)
        self._thread.start()

    def __enter__(self) -> EncryptedClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all connections."""
        if self._thread.is_alive():
            self._run(self._channels.__aexit__(None, None, None))
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    @property
    def card(self) -> ModelCard:
        """The model card of the version that answers.

        Raises:
          EncryptedError: it is not the version or the certificate that was asked for.
        """
        if self._card is None:
            fetch = partial(self._channels.fetch_card, seconds=self._timeout_seconds)
            card = self._run(self._insist(fetch, time.monotonic() + self._timeout_seconds))
            for name, wanted in self._pinned.items():
                if wanted is not None and getattr(card, name) != wanted:
                    raise EncryptedError(
                        f"Expected {name} {wanted} of {card.model}, found {getattr(card, name)}: "
                        "ask the operator what was changed."
                    )
            self._card = card
        return self._card

    def predict(self, rows: Sequence[Row]) -> Predictions:
        """Returns predictions for raw rows: mappings of column names to text, numbers or None.

        Raises:
          EncryptedError: a row does not fit, the service refuses or fails, or its answer is unusable.
        """
        return self._predict(lambda card: encode_rows(card.transform, card.columns, rows))

    def predict_cells(self, cells: Mapping[str, Cells], place: Place) -> Predictions:
        """Returns predictions for columns of text; `place` names a row in a message."""
        return self._predict(lambda card: encode_cells(card.transform, cells, place))

    def predict_encoded(self, inputs: ArrayLike) -> Predictions:
        """Returns predictions for model inputs, (n, num_features), that the caller has encoded."""
        return self._predict(lambda _: np.asarray(inputs))

    def _predict(self, encode: Callable[[ModelCard], NDArray[Any]], attempt: int = 1) -> Predictions:
        card = self.card
        inputs = encode(card)
        try:
            return self._answer(card, inputs)
        except OtherVersionError:
            if attempt >= self._attempts or any(self._pinned.values()):
                raise
        self._card = None
        return self._predict(encode, attempt + 1)  # encoded again, as the new version wants it

    def _answer(self, card: ModelCard, inputs: NDArray[Any]) -> Predictions:
        check_inputs(card, inputs)
        logits, seen = [np.empty((0, card.num_outputs))], card.operator_sees_rows
        for start in range(0, len(inputs), card.max_rows):
            part, exposed = self._ask(card, inputs[start : start + card.max_rows])
            logits.append(part)
            seen = seen or exposed
        return Predictions(
            model=card.model,
            version=card.version,
            certificate=card.certificate,
            privacy=card.privacy,
            operator_sees_rows=seen,
            class_names=card.class_names,
            probabilities=probabilities(np.concatenate(logits)),
        )

    def _ask(self, card: ModelCard, inputs: NDArray[Any]) -> tuple[Floats, bool]:
        """Returns logits for one batch, and whether the operator could see its rows."""
        deadline = time.monotonic() + self._timeout_seconds
        return self._run(self._insist(partial(self._try, card, inputs, deadline), deadline))

    async def _insist(
        self, work: Callable[[], Coroutine[Any, Any, Result]], deadline: float, tries: int = 1
    ) -> Result:
        """Returns what `work` does, begun anew while its failures are passing ones.

        A service that says when to come back is waited for until the deadline; others have their attempts.
        """
        try:
            return await work()
        except PassingError as error:
            tries += not error.is_wait
            delay = error.seconds_before(tries)
            if tries > self._attempts or time.monotonic() + delay >= deadline:
                raise
            await asyncio.sleep(delay)
        return await self._insist(work, deadline, tries)

    async def _try(self, card: ModelCard, inputs: NDArray[Any], deadline: float) -> tuple[Floats, bool]:
        ticket = await self._channels.fetch_ticket(card, len(inputs), seconds=deadline - time.monotonic())
        # Inside the attempt: every request has shares of its own.
        pairs = share(encode_fixed(inputs, max_magnitude=card.max_magnitude))
        seconds = min(deadline - time.monotonic(), ticket.deadline_seconds)
        shape = (len(inputs), card.num_outputs)
        logits = decode_fixed(
            reconstruct(await self._channels.exchange(ticket, pairs, shape, seconds=seconds))
        )
        if np.abs(logits).max() > card.max_output:
            raise PassingError(
                "Expected logits that the model can have, found larger ones: tell the operator."
            )
        return logits, ticket.operator_sees_rows

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


def trust(authorities: Path) -> ssl.SSLContext:
    """Returns what `verify` takes to trust the PEM certificates of a file, and no others.

    Raises:
      EncryptedError: it holds none.
    """
    try:
        return ssl.create_default_context(cafile=authorities)
    except OSError as error:
        raise EncryptedError(f"Expected PEM certificates in {authorities}, found none: check it.") from error


def check_inputs(card: ModelCard, inputs: NDArray[Any]) -> None:
    """Raises EncryptedError unless every input is one that the version's transform can make.

    For those, and no others, the operator has shown that no product overflows.
    """
    width = card.transform.num_features
    if inputs.ndim != 2 or inputs.shape[1] != width or inputs.dtype.kind not in "fiub":
        raise EncryptedError(
            f"Expected numbers of shape (rows, {width}), found {inputs.dtype} {inputs.shape}."
        )
    lower, upper = card.transform.rounded_bounds()
    # Written so that NaN is refused as well.
    refused = np.argwhere(~((inputs >= lower) & (inputs <= upper)))
    if len(refused):
        row, column = refused[0]
        raise EncryptedError(
            f"Expected input {column + 1} of row {row + 1} between {lower[column]:g} and {upper[column]:g}, "
            "found another or none: encode it with the version's transform."
        )


def probabilities(logits: Floats) -> Floats:
    """Returns probabilities of all classes: a sigmoid of one logit, else a softmax.

    >>> probabilities(np.array([[0.0]])).tolist()
    [[0.5, 0.5]]
    """
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    scaled: Floats = powers / powers.sum(axis=1, keepdims=True)
    return scaled
