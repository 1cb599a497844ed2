"""Asking a cohort: who is asked again, for how long, and when it ends."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Any

import pytest

from fedpipe.errors import BudgetError, FederationError
from fedpipe.federation import Refusal, Reply, Request
from fedpipe.federation.cohort import NO_ANSWER, Clock, Cohort, ask_cohort, least_cohort
from fedpipe.federation.messages import ABSENT
from fedpipe.learning import TrainingSettings

REQUEST = Request(run_id="run-1", step="train", server_round=3)
AWAY = Refusal(client="b", reason="no answer in time", kind=ABSENT)
FAILED = Refusal(client="b", reason="the client failed")
VETO = Refusal(client="b", reason="not with these terms", kind="LedgerError")


class Scripted:
    """Answers its n-th request with the n-th of `tries`, the last one over and over; names mean replies."""

    def __init__(self, *tries: Sequence[str | Refusal], seconds_each: float = 0.0) -> None:
        self._tries = tries
        self._seconds_each = seconds_each
        self.now = 0.0
        self.requests: list[Request] = []
        self.asked: list[list[str] | None] = []
        self.waits: list[float] = []

    def ask(
        self, request: Request, *, timeout_seconds: float, only: Collection[str] | None = None
    ) -> tuple[list[Reply], list[Refusal]]:
        answers = self._tries[min(len(self.requests), len(self._tries) - 1)]
        self.requests.append(request)
        self.asked.append(None if only is None else sorted(only))
        self.waits.append(timeout_seconds)
        self.now += self._seconds_each
        replies = [Reply(client=answer) for answer in answers if isinstance(answer, str)]
        return replies, [answer for answer in answers if isinstance(answer, Refusal)]

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def ask(clients: Scripted, among: Collection[str] | None = ("a", "b"), **changes: Any) -> Cohort:
    check = changes.pop("check", None)
    settings = TrainingSettings.model_validate(changes)
    clock = Clock(now=lambda: clients.now, sleep=clients.sleep)
    return ask_cohort(clients, REQUEST, settings, among=among, check=check, clock=clock)


def names(cohort: Cohort) -> list[str]:
    return [reply.client for reply in cohort.replies]


def test_when_all_answer_nobody_is_asked_again() -> None:
    clients = Scripted(["b", "a"])
    cohort = ask(clients)
    assert (names(cohort), cohort.refusals, cohort.retried) == (["a", "b"], [], ())
    assert clients.asked == [["a", "b"]]


def test_those_that_failed_are_asked_the_very_same_again_and_nobody_else() -> None:
    clients = Scripted(["a", AWAY], ["b"])
    cohort = ask(clients)
    assert (names(cohort), cohort.refusals, cohort.retried) == (["a", "b"], [], ("b",))
    assert clients.asked == [["a", "b"], ["b"]]
    assert clients.requests == [REQUEST, REQUEST]
    assert clients.requests[1].attempt == 0


def test_a_client_of_which_nothing_is_heard_is_asked_again() -> None:
    """Its node is not connected, or has never told its name."""
    clients = Scripted(["a", Refusal(client="node-2", reason="away")], ["b"])
    assert names(ask(clients)) == ["a", "b"]


def test_after_the_last_retry_training_goes_on_without() -> None:
    clients = Scripted(["a", AWAY])
    cohort = ask(clients, max_retries=3)
    assert (names(cohort), cohort.refusals, cohort.retried) == (["a"], [AWAY], ("b",))
    assert len(clients.requests) == 4


def test_a_retry_may_bring_silence() -> None:
    cohort = ask(Scripted(["a", AWAY], []), max_retries=1)
    assert cohort.refusals == [Refusal(client="b", reason=NO_ANSWER, kind=ABSENT)]


@pytest.mark.parametrize("changes", [{"max_retries": 0}, {"on_missing": "continue"}])
def test_without_retries_it_goes_on_at_once(changes: dict[str, Any]) -> None:
    clients = Scripted(["a", AWAY])
    assert ask(clients, **changes).refusals == [AWAY]
    assert (len(clients.requests), clients.now) == (1, 0.0)


def test_a_refusal_that_names_its_error_stands() -> None:
    clients = Scripted(["a", VETO])
    cohort = ask(clients)
    assert (cohort.refusals, cohort.retried) == ([VETO], ())
    assert len(clients.requests) == 1


def test_a_refusal_stands_while_others_are_asked_again() -> None:
    clients = Scripted(["a", VETO, Refusal(client="c", reason="away", kind=ABSENT)], ["c"])
    cohort = ask(clients, ["a", "b", "c"])
    assert (names(cohort), cohort.refusals, cohort.retried) == (["a", "c"], [VETO], ("c",))
    assert clients.asked[1:] == [["c"]]


def test_a_client_may_refuse_when_it_is_asked_again() -> None:
    clients = Scripted(["a", AWAY], [VETO])
    assert ask(clients, max_retries=5).refusals == [VETO]
    assert len(clients.requests) == 2


def test_an_answer_that_is_none_is_a_refusal_that_stands() -> None:
    def check(reply: Reply) -> None:
        if reply.client == "b":
            raise FederationError("Expected something else.")

    clients = Scripted(["a", "b"])
    cohort = ask(clients, check=check)
    assert names(cohort) == ["a"]
    assert cohort.refusals == [Refusal(client="b", reason="Expected something else.", kind="FederationError")]
    assert len(clients.requests) == 1


def test_all_tries_share_one_bounded_wait() -> None:
    clients = Scripted(["a"], seconds_each=10)
    ask(clients, round_timeout_seconds=90)
    # A third of 90; half of what is left after 10 and a pause; all that is left.
    assert clients.waits == pytest.approx([30, (90 - 10.2) / 2, 90 - 20.6])


def test_no_try_begins_after_the_wait_is_over() -> None:
    clients = Scripted(["a"], seconds_each=50)
    assert names(ask(clients, round_timeout_seconds=90, max_retries=10)) == ["a"]
    assert len(clients.requests) == 2


def test_one_try_may_take_the_whole_wait() -> None:
    clients = Scripted(["a"])
    ask(clients, round_timeout_seconds=3.5, on_missing="continue")
    assert clients.waits == [3.5]


def test_too_few_are_waited_for_until_enough_are_back(caplog: pytest.LogCaptureFixture) -> None:
    clients = Scripted(*([["a"]] * 9), ["b"])
    with caplog.at_level(logging.WARNING):
        cohort = ask(clients, min_cohort=2, on_missing="continue")
    assert names(cohort) == ["a", "b"]
    assert len(clients.requests) == 10
    assert caplog.messages == ["Waiting for clients: 1 of 2 answered train."]


def test_too_few_within_the_wait_stop_the_run_and_say_how_to_go_on() -> None:
    clients = Scripted(["a", AWAY])
    with pytest.raises(
        FederationError, match=r"min_cohort=2 clients .* found 1\. b says: no .*--resume"
    ) as e:
        ask(clients, min_cohort=2, round_timeout_seconds=60)
    assert e.value.exit_code == 2
    assert clients.now == pytest.approx(60)


def test_when_refusals_stand_nobody_waits() -> None:
    clients = Scripted(["a", VETO])
    with pytest.raises(FederationError, match=r"found 1\. b says: not with these terms"):
        ask(clients, min_cohort=2)
    assert clients.now == 0


def test_a_client_that_fails_is_asked_again_but_not_waited_for() -> None:
    """It is there: its owner has something to mend."""
    assert names(ask(Scripted(["a", FAILED], ["b"]), min_cohort=2)) == ["a", "b"]
    for among in (("a", "b"), None):
        clients = Scripted(["a", FAILED])
        with pytest.raises(FederationError, match=r"found 1\. b says: the client failed"):
            ask(clients, among, min_cohort=2, max_retries=2)
        assert len(clients.requests) == 3


def test_stop_accepts_no_missing_client() -> None:
    clients = Scripted(["a", AWAY])
    with pytest.raises(FederationError, match=r"on_missing=stop\), found 1 missing. b says: .*--resume"):
        ask(clients, on_missing="stop")
    assert len(clients.requests) == 1
    assert names(ask(Scripted(["a", "b"]), on_missing="stop")) == ["a", "b"]


def test_those_that_take_no_part_are_left_out() -> None:
    cohort = ask(Scripted(["a", "b", "stranger", Refusal(client="other", reason="away")]))
    assert (names(cohort), cohort.refusals) == (["a", "b"], [])


def test_at_the_beginning_anybody_may_take_part() -> None:
    clients = Scripted(["a", VETO, Refusal(client="node-3", reason="away", kind=ABSENT)], ["c", VETO])
    cohort = ask(clients, among=None)
    assert (names(cohort), cohort.refusals) == (["a", "c"], [VETO])
    # Whoever is behind node 3 has no name yet; the others are not meant.
    assert clients.asked == [None, ["node-3"]]


def test_at_the_beginning_clients_that_are_not_connected_yet_are_waited_for() -> None:
    clients = Scripted([], [], ["a"], ["b"])
    assert names(ask(clients, among=None, min_cohort=2)) == ["a", "b"]
    assert clients.asked == [None, [], [], []]
    with pytest.raises(FederationError, match="None is connected: start the nodes"):
        ask(Scripted([]), among=None)


def test_at_the_beginning_a_veto_of_all_is_final() -> None:
    clients = Scripted([VETO])
    with pytest.raises(FederationError, match="or start a new run with --fresh"):
        ask(clients, among=None)
    assert len(clients.requests) == 1


def test_refused_budgets_are_a_budget_error() -> None:
    reason = "Requested: 2, remaining: 1, difference: 1."
    refusals = [Refusal(client=name, reason=reason, kind="BudgetError") for name in ("b", "c")]
    with pytest.raises(BudgetError, match=r"Requested: 2, remaining: 1.*\(2 clients refused\.\)") as caught:
        ask(Scripted([Refusal(client="a", reason="no", kind="LedgerError"), *refusals]), among=None)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("fraction", "num_clients", "least"),
    [(0.0, 20, 2), (0.1, 30, 3), (0.5, 5, 3), (1.0, 7, 7), (0.01, 3, 2), (0.9, 0, 2)],
)
def test_the_larger_of_count_and_part_is_needed(fraction: float, num_clients: int, least: int) -> None:
    settings = TrainingSettings.model_validate({"min_cohort": 2, "min_cohort_fraction": fraction})
    assert least_cohort(settings, [str(number) for number in range(num_clients)]) == least


def test_a_part_that_is_not_reached_is_named() -> None:
    with pytest.raises(FederationError, match=r"min_cohort_fraction=1, 2 clients or more"):
        ask(Scripted(["a", VETO]), min_cohort_fraction=1)


def test_a_client_that_says_what_is_wrong_is_named_before_one_that_is_away() -> None:
    # To wait does not mend records that cannot be read.
    away, failed = Refusal(client="a", reason="no answer in time", kind=ABSENT), FAILED

    with pytest.raises(FederationError, match="see to it") as caught:
        ask(Scripted([away, failed]), min_cohort=2, on_missing="continue", round_timeout_seconds=5)

    assert "b says: the client failed" in str(caught.value)
    assert "once enough are back" not in str(caught.value)


def test_when_all_that_lack_are_away_the_remedy_is_to_wait() -> None:
    with pytest.raises(FederationError, match=r"b says: .* once enough are back, go on with --resume"):
        ask(Scripted(["a"]), among=["a", "b"], min_cohort=2, on_missing="continue", round_timeout_seconds=5)
