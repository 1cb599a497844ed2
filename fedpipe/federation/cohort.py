"""Asking a cohort: bounded waits, the same question again to those that failed, and what to do without them.

A repeated request is the very same one, its attempt number included: a client that computed an
answer which was then lost gives the stored bytes again, at no charge. A fresh answer would be a
fresh draw of noise, and is never asked for.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from fedpipe.errors import BudgetError, FederationError
from fedpipe.federation.messages import ABSENT, Clients, Refusal, Reply, Request
from fedpipe.learning import TrainingSettings

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
MAX_NAMED = 3
NO_ANSWER = "it is not connected, or did not answer"

Check = Callable[[Reply], object]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Where waiting takes its time from."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Who answered a request, who did not and why, and who was asked more than once; by client name."""

    replies: list[Reply]
    refusals: list[Refusal]
    retried: tuple[str, ...] = ()

    @property
    def missing(self) -> str:
        """Names some of those that did not answer, and what the first said; empty if all did.

        >>> away = [Refusal(client=name, reason="it is away") for name in "abcde"]
        >>> Cohort(replies=[], refusals=away).missing
        'a, b, c and 2 more: it is away'
        """
        names = [refusal.client for refusal in self.refusals]
        return f"{some_of(names)}: {self.refusals[0].reason}" if names else ""


@dataclass(kw_only=True)
class _Gathered:
    """Answers so far, by client. A reply is kept; of the others, what they said last counts."""

    replies: dict[str, Reply] = field(default_factory=dict)
    refusals: dict[str, Refusal] = field(default_factory=dict)
    retried: set[str] = field(default_factory=set)

    def add(self, replies: list[Reply], refusals: list[Refusal]) -> None:
        self.replies |= {reply.client: reply for reply in replies}
        said = self.standing | {refusal.client: refusal for refusal in refusals}
        self.refusals = {name: refusal for name, refusal in said.items() if name not in self.replies}

    @property
    def standing(self) -> dict[str, Refusal]:
        """Refusals that asking again does not change."""
        return {name: refusal for name, refusal in self.refusals.items() if not is_transient(refusal)}

    def unanswered(self, among: Collection[str] | None, *, absent_only: bool = False) -> list[str]:
        """Returns those that may answer if they are asked again; or only those that have not said a thing."""
        everyone = self.refusals if among is None else among
        kinds = (ABSENT,) if absent_only else (ABSENT, "")
        said_more = {name for name, refusal in self.refusals.items() if refusal.kind not in kinds}
        return sorted(set(everyone) - set(self.replies) - said_more)


def is_transient(refusal: Refusal) -> bool:
    """Whether asking again may help: a refusal by policy or budget names its error, and stands."""
    return refusal.kind in (ABSENT, "")


def ask_cohort(
    clients: Clients,
    request: Request,
    settings: TrainingSettings,
    *,
    among: Collection[str] | None = None,
    check: Check | None = None,
    clock: Clock | None = None,
) -> Cohort:
    """Returns what the cohort came to, as `settings.on_missing` says, within `round_timeout_seconds`.

    While too few have answered, those that are away are waited for until that time is over.

    Args:
      clients: the data owners.
      request: what every client is asked.
      settings: public constants.
      among: the names of those that take part; all others are left out. By default, whoever answers.
      check: raises FederationError for an answer that is none; its client then counts as refusing.
      clock: of the waits.

    Raises:
      BudgetError: too few answered, because budgets refused.
      FederationError: too few answered, or not all of `among` and the policy is to stop.
    """
    clock = clock or Clock()
    gathered = _gather(clients, request, settings, among, check, clock)
    cohort = Cohort(
        replies=[gathered.replies[name] for name in sorted(gathered.replies)],
        refusals=_missing(gathered, among),
        retried=tuple(sorted(gathered.retried)),
    )
    if len(cohort.replies) < least_cohort(settings, among):
        raise _too_few(request, settings, among, cohort)
    if settings.on_missing == "stop" and among is not None and cohort.refusals:
        first = cohort.refusals[0]
        raise FederationError(
            f"Expected every client to answer {request.step} (training.on_missing=stop), found "
            f"{len(cohort.refusals)} missing. {first.client} says: {first.reason} "
            "What was done is kept: see to it, then go on with --resume."
        )
    return cohort


def least_cohort(settings: TrainingSettings, among: Collection[str] | None) -> int:
    """Returns how many answers a step or round needs.

    >>> least_cohort(TrainingSettings(min_cohort=2, min_cohort_fraction=0.5), ["a", "b", "c", "d", "e"])
    3
    """
    # Rounded, or 0.1 of 30 would be 4.
    part = math.ceil(round(settings.min_cohort_fraction * len(among or ()), 6))
    return max(settings.min_cohort, part)


def _gather(
    clients: Clients,
    request: Request,
    settings: TrainingSettings,
    among: Collection[str] | None,
    check: Check | None,
    clock: Clock,
) -> _Gathered:
    gathered, least = _Gathered(), least_cohort(settings, among)
    deadline = clock.now() + settings.round_timeout_seconds
    tries_left = settings.max_retries + 1 if settings.on_missing == "retry" else 1
    pause, only = FIRST_PAUSE_SECONDS, among
    while True:
        # A client that never answers must leave time for the other tries.
        wait = max(deadline - clock.now(), 0.0) / max(tries_left, 1)
        gathered.add(*_checked(clients.ask(request, timeout_seconds=wait, only=only), among, check))
        tries_left -= 1
        remaining, only = deadline - clock.now(), _whom_next(gathered, among, least, tries_left)
        if remaining <= 0 or only is None:
            return gathered
        if tries_left == 0:
            logger.warning(
                "Waiting for clients: %d of %d answered %s.", len(gathered.replies), least, request.step
            )
        gathered.retried.update(only)
        clock.sleep(min(pause, remaining))
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _whom_next(
    gathered: _Gathered, among: Collection[str] | None, least: int, tries_left: int
) -> list[str] | None:
    """Returns who should be asked again, by name; None if that is of no use, or not needed."""
    if tries_left > 0 and gathered.unanswered(among):
        return gathered.unanswered(among)
    if len(gathered.replies) >= least:
        return None
    # Whoever fails again and again is there, and not waited for. Where anybody may take part, others
    # may still connect; but when one fails or refuses, most often all do.
    absent = gathered.unanswered(among, absent_only=True)
    newcomers = among is None and len(absent) == len(gathered.refusals)
    return absent if absent or newcomers else None


def _checked(
    answers: tuple[list[Reply], list[Refusal]], among: Collection[str] | None, check: Check | None
) -> tuple[list[Reply], list[Refusal]]:
    """Returns `answers` of those that take part, with replies that are none as refusals."""
    replies, refusals = [], list(answers[1])
    for reply in answers[0]:
        if among is not None and reply.client not in among:
            continue
        try:
            if check is not None:
                check(reply)
            replies.append(reply)
        except FederationError as error:
            # The client would give the stored answer again: no use in asking.
            refusals.append(Refusal(client=reply.client, reason=str(error), kind="FederationError"))
    return replies, refusals


def _missing(gathered: _Gathered, among: Collection[str] | None) -> list[Refusal]:
    """Returns a refusal of everyone that takes part and did not answer."""
    if among is None:
        return [gathered.refusals[name] for name in sorted(gathered.refusals)]
    return [
        gathered.refusals.get(name, Refusal(client=name, reason=NO_ANSWER, kind=ABSENT))
        for name in sorted(set(among) - set(gathered.replies))
    ]


def _too_few(
    request: Request, settings: TrainingSettings, among: Collection[str] | None, cohort: Cohort
) -> BudgetError | FederationError:
    over_budget = [refusal for refusal in cohort.refusals if refusal.kind == "BudgetError"]
    if over_budget:
        shortfalls = [shortfall for refusal in over_budget for shortfall in refusal.shortfalls]
        return BudgetError(f"{over_budget[0].reason} ({len(over_budget)} clients refused.)", shortfalls)
    # One who says something tells more than one who is away.
    first = min(cohort.refusals, key=lambda refusal: refusal.kind == ABSENT, default=None)
    said = f"{first.client} says: {first.reason}" if first else "None is connected: start the nodes."
    least, wanted = least_cohort(settings, among), f"min_cohort={settings.min_cohort}"
    if least > settings.min_cohort:
        wanted = f"min_cohort_fraction={settings.min_cohort_fraction:g}, {least}"
    return FederationError(
        f"Expected training.{wanted} clients or more to answer {request.step}, found {len(cohort.replies)}. "
        f"{said} {_remedy(cohort)}"
    )


def _remedy(cohort: Cohort) -> str:
    """Returns what helps: to wait for those that are away, or to see to what the others refuse for."""
    if all(refusal.kind == ABSENT for refusal in cohort.refusals):
        return "What was done is kept: once enough are back, go on with --resume."
    return "What was done is kept: see to it, then go on with --resume, or start a new run with --fresh."


def some_of(names: Sequence[str]) -> str:
    """Returns the first of `names`, and how many more there are."""
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
