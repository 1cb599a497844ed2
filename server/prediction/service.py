"""What every request passes, whichever way it comes: limits, routing, the model, the counters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from server.prediction import examples
from server.prediction.access import KeyRing
from server.prediction.errors import Code, ServingError, invalid
from server.prediction.metrics import Metrics
from server.prediction.servable import Arrays
from server.prediction.signatures import Signature, find_signature
from server.prediction.versions import LoadedVersion, Models, Query


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request may cost.

    Attributes:
      max_request_bytes: of a body or a message.
      max_rows: along the first dimension of any input.
      max_in_flight: requests being answered at once; more are refused, not queued.
      timeout_seconds: until an answer; a gRPC client may set less.
    """

    max_request_bytes: int = 64 << 20
    max_rows: int = 65_536
    max_in_flight: int = 512
    timeout_seconds: float = 30.0


@dataclass(frozen=True, kw_only=True)
class PredictionService:
    """Answers requests in NumPy's terms; REST and gRPC translate."""

    models: Models
    metrics: Metrics
    limits: Limits
    keys: KeyRing | None = None

    @contextmanager
    def answering(self, query: Query, method: str, protocol: str) -> Iterator[LoadedVersion]:
        """Gives the version that answers, keeps it in memory, and counts how it went.

        Raises:
          ServingError: too much is under way, or there is no such version.
        """
        start = time.perf_counter()
        self.metrics.in_flight += 1
        code, name, version = Code.OK, "", ""
        try:
            if self.metrics.in_flight > self.limits.max_in_flight:
                raise ServingError(
                    Code.RESOURCE_EXHAUSTED, "Too many requests are being answered: try again later."
                )
            loaded = self.models.find(query)
            name, version = loaded.name, str(loaded.version)
            with loaded.in_use():
                yield loaded
        except ServingError as error:
            code = error.code
            raise
        except asyncio.CancelledError:
            code = Code.CANCELLED
            raise
        except Exception:
            code = Code.INTERNAL
            raise
        finally:
            self.metrics.in_flight -= 1
            self.metrics.observe_request(
                model=name,
                version=version,
                method=method,
                protocol=protocol,
                code=code,
                seconds=time.perf_counter() - start,
            )

    async def predict(
        self,
        loaded: LoadedVersion,
        signature: Signature,
        inputs: Arrays,
        outputs: tuple[str, ...],
        *,
        timeout_seconds: float | None = None,
    ) -> Arrays:
        """Returns the named outputs for inputs in the signature's order.

        Raises:
          ServingError: the request is too large, the model refuses it, or the time is up.
        """
        signature.check_dense()
        if any(array.ndim and len(array) > self.limits.max_rows for array in inputs):
            raise invalid(f"Expected at most {self.limits.max_rows} rows in a request: send several.")
        return await loaded.batcher.submit(
            signature,
            inputs,
            outputs,
            timeout_seconds=min(self.limits.timeout_seconds, timeout_seconds or self.limits.timeout_seconds),
        )

    async def infer(
        self,
        loaded: LoadedVersion,
        signature_name: str,
        method_name: str,
        cells: NDArray[Any],
        *,
        timeout_seconds: float | None = None,
    ) -> tuple[Signature, tuple[str, ...], Arrays]:
        """Returns what a classify or regress signature says of serialized examples."""
        signature = find_signature(loaded.servable.signatures, signature_name, method_name=method_name)
        spec = signature.inputs[examples.input_name(signature)]
        spec.check_shape(cells.shape)
        names = examples.output_names(signature)
        arrays = await self.predict(loaded, signature, [cells], names, timeout_seconds=timeout_seconds)
        return signature, names, arrays
