"""Keeps one committee active: a new version, a fault or a worn committee is answered by a new committee.

The successor is started, given the weights and tried out before it takes over; the old one then answers
every ticket that it still owes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fedpipe.encrypted.party import tickets
from fedpipe.errors import EncryptedError, FedpipeError
from server.encrypted.committee import Committee, CommitteeSettings
from server.encrypted.options import UpOptions
from server.encrypted.owner_process import OwnerProcess
from server.encrypted.standing import Standing, served_version
from server.encrypted.threat_model import threat_model
from server.prediction.options import Say

logger = logging.getLogger("fedpipe.encrypted")

Make = Callable[[int, tuple[int, ...]], Committee]

_BUCKETS = (1, 32, 256)
# Pooling compares, which is what costs on shares: a picture takes as long as many rows of a table.
_CNN_BUCKETS = (1, 8)
_OWNER_SECONDS = 600.0
_MAX_BACKOFF_SECONDS = 60.0
_STATUS_SECONDS = 5.0


@dataclass(eq=False, kw_only=True)
class Active:
    """A committee that answers, and the model card of the version that it holds."""

    committee: Committee
    standing: Standing
    card: dict[str, Any]
    canary_error: float
    started_at: float = field(default_factory=time.time)
    figures: dict[str, Any] = field(default_factory=dict)
    first_bytes: int = 0

    def has_grown(self, max_growth_bytes: int) -> bool:
        """Returns whether a process has grown so much that a fresh one should take over."""
        return self.first_bytes > 0 and _largest(self.figures) - self.first_bytes > max_growth_bytes


class Service:
    """What is served, or why nothing is. Used on one event loop.

    Args:
      make: returns a new committee for rows of a width, in buckets.
      say: told of every change, in one line.
    """

    def __init__(self, options: UpOptions, make: Make, settings: CommitteeSettings, say: Say) -> None:
        self.active: Active | None = None
        self.reason = "Expected an active version, found it starting: try again."
        self._options = options
        self._settings = settings
        self._say = say
        self._make = make
        self._preparing: asyncio.Task[Active] | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._failures = 0
        self._failures_in_a_row = 0
        self._not_before = 0.0
        self._asked = 0.0

    async def follow(self) -> None:
        """Looks and acts for as long as the service lives."""
        while True:
            try:
                await self._look()
            except FedpipeError as error:
                logger.warning("%s", error)
            await self._pause()

    async def close(self) -> None:
        """Ends every process."""
        if self._preparing is not None:
            self._preparing.cancel()
            await asyncio.gather(self._preparing, return_exceptions=True)
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        if self.active is not None:
            await self.active.committee.close()

    def describe(self) -> dict[str, Any]:
        """Returns what `fedpipe encrypted status` shows: no ids, no shares."""
        active = self.active
        named = ("model", "version", "certificate", "privacy", "limits", "operator_sees_rows", "isolated")
        return {
            "state": "active" if active else "not active",
            "reason": None if active else self.reason,
            "serves": {name: active.card[name] for name in named} if active else None,
            "parties": list(active.committee.urls) if active else [],
            "canary_error": active.canary_error if active else None,
            "started_at": active.started_at if active else None,
            "figures": active.figures if active else {},
            "preparing": self._preparing is not None,
            "num_recoveries": self._failures,
            "threat_model": threat_model(self._options),
        }

    async def _pause(self) -> None:
        """Returns when it is time to look again: at once when the committee fails."""
        failure = self.active.committee.failure if self.active else asyncio.Future[str]()
        await asyncio.wait([failure], timeout=self._options.poll_seconds)

    async def _look(self) -> None:
        self._drop_failed()
        try:
            wanted = await asyncio.to_thread(
                served_version, self._options.workspace, self._options.model, self._options.version
            )
        except FedpipeError as error:
            self._withdraw(str(error))
            return
        await self._take_over()
        await self._measure()
        active = self.active
        stale = (
            active is None or active.standing != wanted or active.has_grown(self._options.max_growth_bytes)
        )
        if stale and self._preparing is None and time.monotonic() >= self._not_before:
            self._preparing = asyncio.create_task(self._prepare(wanted))

    def _drop_failed(self) -> None:
        active = self.active
        if active is not None and active.committee.failure.done():
            self._failures += 1
            self._withdraw(f"{active.committee.failure.result()} It is being replaced: try again.")

    def _withdraw(self, reason: str) -> None:
        """Answers nobody any more, at once."""
        self.reason = reason
        if self.active is not None:
            self._say(f"not active: {reason}")
            self._retire(self.active, seconds=0.0)
            self.active = None

    async def _take_over(self) -> None:
        if self._preparing is None or not self._preparing.done():
            return
        task, self._preparing = self._preparing, None
        try:
            successor = task.result()
        except (FedpipeError, OSError) as error:
            self._failures += 1
            self._failures_in_a_row += 1
            self._not_before = time.monotonic() + backoff_seconds(self._failures_in_a_row)
            if self.active is None:
                self.reason = f"{error} Another try follows."
            self._say(f"not activated: {error}")
            return
        if self.active is not None:
            self._retire(self.active, seconds=self._settings.deadline_seconds)
        self.active, self._failures_in_a_row = successor, 0
        self._say(
            f"active: {successor.standing.name}:{successor.standing.version} "
            f"(largest error of the canary {successor.canary_error:.1e})"
        )

    def _retire(self, active: Active, seconds: float) -> None:
        task = asyncio.create_task(self._close_later(active.committee, seconds))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _close_later(self, committee: Committee, seconds: float) -> None:
        try:
            await asyncio.wait([committee.failure], timeout=seconds)
        finally:
            await committee.close()

    async def _measure(self) -> None:
        if self.active is None or time.monotonic() - self._asked < _STATUS_SECONDS:
            return
        self._asked = time.monotonic()
        with contextlib.suppress(EncryptedError):  # the next look finds the failure
            self.active.figures = await self.active.committee.status()
            self.active.first_bytes = self.active.first_bytes or _largest(self.active.figures)

    async def _prepare(self, wanted: Standing) -> Active:
        """Returns a committee that holds the version and has shown that it computes it."""
        suitable = _CNN_BUCKETS if wanted.model_type == "cnn" else _BUCKETS
        committee = self._make(wanted.input_width, self._options.buckets or suitable)
        owner = OwnerProcess()
        try:
            await committee.start()
            work = self._bring_weights(committee, owner, wanted)
            card, error = await committee.unless_failed(work)
        except BaseException:
            await committee.close()
            raise
        finally:
            await owner.close()
        return Active(
            committee=committee, standing=wanted, card=self._complete(card, committee), canary_error=error
        )

    async def _bring_weights(
        self, committee: Committee, owner: OwnerProcess, wanted: Standing
    ) -> tuple[dict[str, Any], float]:
        await owner.start()
        reference = f"{wanted.name}:{wanted.version}"
        found = await owner.ask("export", workspace=str(self._options.workspace), reference=reference)
        await owner.ask(
            "share",
            urls=list(committee.urls),
            authority=self._options.party_authority,
            tickets=[
                committee.ticket(tickets.WEIGHTS, number, _OWNER_SECONDS)
                for number in range(found["num_weights"])
            ],
        )
        await committee.load(found["layers"], found["num_weights"])
        canary = [(rows, committee.ticket(tickets.ROWS, rows, _OWNER_SECONDS)) for rows in committee.buckets]
        checked = await owner.ask("check", tickets=canary)
        return found["card"], float(checked["max_error"])

    def _complete(self, card: dict[str, Any], committee: Committee) -> dict[str, Any]:
        """Returns the model card with the service's own members."""
        limits = {
            **card["limits"],
            "max_rows": max(committee.buckets),
            "deadline_seconds": self._settings.deadline_seconds,
        }
        return {
            **card,
            "limits": limits,
            "buckets": list(committee.buckets),
            "operator_sees_rows": self._options.sees_rows,
            "isolated": self._settings.isolated,
            "threat_model": threat_model(self._options),
        }


def backoff_seconds(failures: int) -> float:
    """Returns how long to wait after so many failures in a row, be they those of days.

    >>> backoff_seconds(1), backoff_seconds(100_000)
    (2.0, 60.0)
    """
    return min(2.0 ** min(failures, 10), _MAX_BACKOFF_SECONDS)


def _largest(figures: dict[str, Any]) -> int:
    memory = figures.get("resident_bytes", {})
    return max([0, memory.get("coordinator") or 0, *(each or 0 for each in memory.get("parties", []))])
