"""Connections to the front end and to each party. Every request has a deadline and a bound on its answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx

from fedpipe.encrypted.card import ModelCard, Ticket, check_url, read_card, read_ticket
from fedpipe.encrypted.wire import CONTENT_TYPE, Pair, decode_pair, encode_pair, encoded_bytes
from fedpipe.errors import EncryptedError

MAX_JSON_BYTES = 64 << 20  # a card holds vocabularies
MAX_ERROR_CHARACTERS = 300
MAX_IDLE_SECONDS = 600.0  # every request has a shorter deadline of its own
_OTHER_VERSION = 409
_RETRY_SECONDS, _MAX_RETRY_SECONDS = 0.1, 5.0
# With a new ticket and fresh shares the next try may succeed.
_PASSING = (403, 409, 429, 500, 502, 503, 504)


class PassingError(EncryptedError):
    """A failure after which a new request, with fresh shares, may succeed.

    Attributes:
      is_wait: the service said when to come back.
    """

    def __init__(self, message: str, *, retry_after: str = "") -> None:
        super().__init__(message)
        self.is_wait = retry_after.isdigit()
        self._retry_after = float(retry_after) if self.is_wait else 0.0

    def seconds_before(self, attempt: int) -> float:
        """Returns the wait before the second or a later attempt: what the service said, or longer each time.

        A service needs a moment to notice that a party is gone.

        >>> [PassingError("").seconds_before(attempt) for attempt in (2, 3, 3000)]
        [0.1, 0.8, 5.0]
        """
        if self.is_wait:
            return self._retry_after
        return min(_RETRY_SECONDS * 8.0 ** min(attempt - 2, 8), _MAX_RETRY_SECONDS)


class OtherVersionError(EncryptedError):
    """Another version is served than the one whose transform encoded the rows."""


class Channels:
    """The front end at `url` and the parties it names.

    Args:
      key: for the front end alone; parties ask for the ticket.
      verify: True, or an `ssl.SSLContext`.
    """

    def __init__(self, url: str, *, key: str | None, verify: Any) -> None:
        self._url = check_url(url)
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._verify = verify
        self._clients: dict[str, httpx.AsyncClient] = {}

    async def __aenter__(self) -> Channels:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients.values():
            await client.aclose()

    async def fetch_card(self, *, seconds: float) -> ModelCard:
        """Returns the model card of the version that is served."""
        body = await self._request("GET", f"{self._url}/v1/model", seconds=seconds, headers=self._headers)
        return read_card(_json(body))

    async def fetch_ticket(self, card: ModelCard, num_rows: int, *, seconds: float) -> Ticket:
        """Returns a ticket for one request.

        Raises:
          OtherVersionError: the card's version is no longer served.
        """
        wanted = json.dumps({"rows": num_rows, "version": card.version}).encode()
        headers = {**self._headers, "content-type": "application/json"}
        url = f"{self._url}/v1/requests"
        body = await self._request("POST", url, seconds=seconds, headers=headers, content=wanted)
        return read_ticket(_json(body), card, num_rows)

    async def exchange(
        self, ticket: Ticket, pairs: Sequence[Pair], shape: tuple[int, int], *, seconds: float
    ) -> list[Pair]:
        """Sends each party its pair of the input, all at once; returns their pairs of the output.

        The first failure ends the other requests.
        """
        tasks = [
            asyncio.create_task(self._send_pair(url, ticket, pair, shape, seconds))
            for url, pair in zip(ticket.party_urls, pairs, strict=True)
        ]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _send_pair(
        self, url: str, ticket: Ticket, pair: Pair, shape: tuple[int, int], seconds: float
    ) -> Pair:
        body = await self._request(
            "PUT",
            f"{url}/v1/shares/{ticket.request_id}",
            seconds=seconds,
            headers={"content-type": CONTENT_TYPE},
            content=encode_pair(pair),
            max_bytes=encoded_bytes(shape),
        )
        return decode_pair(body, shape)

    async def _request(
        self,
        method: str,
        url: str,
        *,
        seconds: float,
        headers: dict[str, str],
        content: bytes | None = None,
        max_bytes: int = MAX_JSON_BYTES,
    ) -> bytes:
        origin = "{0.scheme}://{0.netloc}".format(urlsplit(url))
        client = self._client(origin)
        request = client.build_request(method, url, headers=headers, content=content)
        try:
            return await asyncio.wait_for(_send(client, request, max_bytes), seconds)
        except (TimeoutError, asyncio.TimeoutError):
            raise PassingError(f"Expected an answer of {origin} in {seconds:.1f} s, found none.") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise PassingError(
                f"Expected an answer of {origin}, found {_reason(error)}: check its address and certificate."
            ) from error

    def _client(self, origin: str) -> httpx.AsyncClient:
        # One for each party: no connection ever carries two of the pairs. No proxies from the environment.
        if origin not in self._clients:
            self._clients[origin] = httpx.AsyncClient(
                verify=self._verify, trust_env=False, timeout=MAX_IDLE_SECONDS
            )
        return self._clients[origin]


async def _send(client: httpx.AsyncClient, request: httpx.Request, max_bytes: int) -> bytes:
    response = await client.send(request, stream=True)
    try:
        succeeded = response.status_code == httpx.codes.OK
        limit = max_bytes if succeeded else 1 << 16
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > limit:
                raise EncryptedError(f"Expected at most {limit} bytes of {request.url.host}, found more.")
    finally:
        await response.aclose()
    if not succeeded:
        raise _refusal(response, bytes(body), request.url.host)
    return bytes(body)


def _refusal(response: httpx.Response, body: bytes, host: str) -> EncryptedError:
    status = response.status_code
    message = f"Expected {host} to answer, found status {status}. It says: {_what_it_says(body)}"
    if status == _OTHER_VERSION and response.request.method == "POST":
        return OtherVersionError(message)
    if status in _PASSING:
        return PassingError(message, retry_after=response.headers.get("retry-after", ""))
    return EncryptedError(message)


def _what_it_says(body: bytes) -> str:
    """Returns the other side's message in one printable line, or that there is none."""
    try:
        message = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return "nothing."
    printable = "".join(sign if sign.isprintable() else " " for sign in message)
    return " ".join(printable.split())[:MAX_ERROR_CHARACTERS]


def _json(body: bytes) -> object:
    try:
        content: object = json.loads(body)
    except (ValueError, RecursionError):
        raise EncryptedError("Expected JSON of the front end, found none: check its address.") from None
    return content


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__} {error}".split())[:MAX_ERROR_CHARACTERS]
