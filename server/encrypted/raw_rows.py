"""For callers that can compute nothing: the front end plays their client, and so sees their rows."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable

from pydantic import BaseModel, ConfigDict, Field

from fedpipe.encrypted.channels import PassingError
from fedpipe.encrypted.client import EncryptedClient
from fedpipe.errors import EncryptedError
from server.prediction.errors import Code, ServingError

_MAX_ROWS = 256
Cell = str | int | float | None


class RawRows(BaseModel):
    """Rows in the clear."""

    model_config = ConfigDict(extra="forbid")
    instances: list[dict[str, Cell]] = Field(min_length=1, max_length=_MAX_ROWS)


class RawAnswer(BaseModel):
    """Probabilities of each class for each row, in the order of `class_names`."""

    model: str
    version: int
    certificate: str
    privacy: str
    operator_sees_rows: bool
    class_names: tuple[str, ...]
    probabilities: list[list[float]]


Predict = Callable[[RawRows, str | None], Awaitable[RawAnswer]]


def raw_predictor(url: str, authority: str | None) -> Predict:
    """Returns what answers rows in the clear, with the caller's own key, through the front end at `url`."""
    verify = ssl.create_default_context(cafile=authority)

    def ask(rows: RawRows, key: str | None) -> RawAnswer:
        with EncryptedClient(url, key=key, verify=verify) as client:
            found = client.predict(rows.instances)
        return RawAnswer(
            model=found.model,
            version=found.version,
            certificate=found.certificate,
            privacy=found.privacy,
            operator_sees_rows=True,
            class_names=found.class_names,
            probabilities=found.probabilities.tolist(),
        )

    async def predict(rows: RawRows, key: str | None) -> RawAnswer:
        try:
            return await asyncio.to_thread(ask, rows, key)
        except PassingError as error:
            raise ServingError(Code.UNAVAILABLE, str(error)) from error
        except EncryptedError as error:
            raise ServingError(Code.INVALID_ARGUMENT, str(error)) from error

    return predict
