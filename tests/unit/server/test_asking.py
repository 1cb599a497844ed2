from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fedpipe.federation import Refusal, Reply, Request
from server.steps.asking import Asker

COUNTS = {"labels": (2,)}
REQUEST = Request(run_id="run-1", step="statistics")


def test_whom_a_step_goes_on_without_is_told_with_the_reason(make_asker: Callable[..., Asker]) -> None:
    told: list[str] = []
    answers = [
        Reply(client="a", arrays={"labels": np.array([1, 2])}),
        Reply(client="b", arrays={"labels": np.array([2**62, 0])}),
        Refusal(client="c", reason="not today", kind="LedgerError"),
    ]
    asker = replace(make_asker({"statistics": answers}), on_note=told.append)

    assert [reply.client for reply in asker.ask(REQUEST, among=["a", "b", "c"], counts=COUNTS)] == ["a"]
    assert len(told) == 1
    assert told[0].startswith("Goes on without an answer to statistics from b, c: Expected whole numbers")


def test_nothing_is_told_when_all_have_answered(make_asker: Callable[..., Asker]) -> None:
    told: list[str] = []
    answers = [Reply(client="a", arrays={"labels": np.array([1, 2])})]
    replace(make_asker({"statistics": answers}), on_note=told.append).ask(REQUEST, among=["a"], counts=COUNTS)

    assert not told
