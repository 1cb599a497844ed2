"""The model owner's process: it alone reads the weights, and hands each party two of three shares of them.

`python -m server.encrypted.owner`, with orders on standard input and answers on standard output, one JSON
object a line each: export, share, check.
"""

from __future__ import annotations

import json
import ssl
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from fedpipe.encrypted.dense import DensePart, evaluate
from fedpipe.encrypted.shares import decode_fixed, encode_fixed, reconstruct, share
from fedpipe.encrypted.transform import read_transform
from fedpipe.encrypted.wire import CONTENT_TYPE, Pair, decode_pair, encode_pair
from fedpipe.errors import EncryptedError, FedpipeError

# Of a probability: what rounding and tanh in pieces may cost.
TOLERANCE = 1e-3
_WEIGHT_LIMIT = 2.0**30
_SECONDS = 300.0


class Parties:
    """Connections to the three parties."""

    def __init__(self, urls: Sequence[str], authority: str | None) -> None:
        verify = ssl.create_default_context(cafile=authority)
        self._urls = urls
        self._clients = [httpx.Client(verify=verify, trust_env=False, timeout=_SECONDS) for _ in urls]
        self._pool = ThreadPoolExecutor(len(urls))

    def send(self, ticket: str, values: NDArray[np.float64], limit: float) -> list[bytes]:
        """Returns what the parties answer to shares of `values`."""
        pairs = share(encode_fixed(values, max_magnitude=limit))
        return list(self._pool.map(self._put, range(len(pairs)), pairs, [ticket] * len(pairs)))

    def _put(self, index: int, pair: Pair, ticket: str) -> bytes:
        answer = self._clients[index].put(
            f"{self._urls[index]}/v1/shares/{ticket}",
            content=encode_pair(pair),
            headers={"content-type": CONTENT_TYPE},
        )
        if answer.status_code != httpx.codes.OK:
            raise EncryptedError(f"Expected party {index} to take shares, found status {answer.status_code}.")
        return answer.content


class Owner:
    """A version's dense part, on its way to the parties."""

    def __init__(self) -> None:
        self._part: DensePart
        self._parties: Parties
        self._card: dict[str, Any]

    def export(self, workspace: str, reference: str) -> dict[str, Any]:
        """Returns what the coordinator and the model card need to know: nothing of the weights."""
        from server.encrypted.export import describe_version, export_dense
        from server.paper_trail import find_model

        root = Path(workspace)
        version = find_model(root, reference)
        self._part = export_dense(version, root / "models" / version.name / str(version.version))
        self._card = describe_version(version, self._part)
        return {
            "card": self._card,
            "layers": list(self._part.layers),
            "num_weights": len(self._part.weights),
        }

    def share(self, urls: Sequence[str], authority: str | None, tickets: Sequence[str]) -> dict[str, Any]:
        """Brings each party its shares of all weights."""
        self._parties = Parties(urls, authority)
        for ticket, weight in zip(tickets, self._part.weights, strict=True):
            self._parties.send(ticket, weight, _WEIGHT_LIMIT)
        return {"shared": len(tickets)}

    def check(self, tickets: Sequence[tuple[int, str]]) -> dict[str, Any]:
        """Returns the largest error of a probability on random rows that the transform could make.

        Raises:
          EncryptedError: it is too large, or an output repeats for the same row.
        """
        lower, upper = read_transform(self._card["transform"]).bounds()
        generator = np.random.default_rng()
        errors = [
            self._error(generator.uniform(lower, upper, (count, len(lower))), ticket)
            for count, ticket in tickets
        ]
        if not max(errors) <= TOLERANCE:  # NaN is refused as well
            raise EncryptedError(
                f"Expected probabilities within {TOLERANCE} of the model's own, found {max(errors):.3g}."
            )
        return {"max_error": max(errors)}

    def _error(self, rows: NDArray[np.float64], ticket: str) -> float:
        limit = self._card["limits"]["max_magnitude"]
        answers = self._parties.send(ticket, rows, limit)
        pairs = [decode_pair(answer, (len(rows), self._part.num_outputs)) for answer in answers]
        found = probabilities(decode_fixed(reconstruct(pairs)))
        return float(np.abs(found - probabilities(evaluate(self._part, rows))).max())


def probabilities(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the probabilities of all classes."""
    from fedpipe.encrypted.client import probabilities as of_logits

    return of_logits(logits)


def serve(orders: Iterable[str]) -> None:
    """Does what each line says and prints what came of it; ends at the first failure, or with the orders."""
    owner = Owner()
    for line in orders:
        order = json.loads(line)
        try:
            answer = getattr(owner, _ORDERS[order.pop("order")])(**order)
        except FedpipeError as error:
            answer = {"error": str(error)}
        except httpx.HTTPError as error:
            answer = {
                "error": f"Expected the parties to answer the model owner, found {type(error).__name__}."
            }
        print(json.dumps(answer), flush=True)  # noqa: T201  # the answer's way
        if "error" in answer:
            return


_ORDERS = {"export": "export", "share": "share", "check": "check"}

if __name__ == "__main__":
    serve(sys.stdin)
