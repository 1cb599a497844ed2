from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from fedpipe.errors import BudgetError, LedgerError
from fedpipe.ledger import LedgerStore, ReleaseId, stores
from fedpipe.ledger.check import check_ledger
from fedpipe.privacy import PrivacyPlan
from fedpipe.privacy.accounting import renyi_divergence

if TYPE_CHECKING:
    from conftest import Desk


def reply(desk: Desk, release: ReleaseId, digest: str = "r1") -> bytes | None:
    with desk.open() as ledger:
        return ledger.stored_reply(release, digest)


LARGE = 2 << 20


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that tests of the file's size need no replies of a hundred megabytes."""
    monkeypatch.setattr(stores, "KEPT_BYTES", LARGE // 2)


def per_release(desk: Desk, *names: str) -> float:
    order = desk.policy.renyi_order
    return sum(renyi_divergence(desk.plan.queries[name].mechanism.event, order) for name in names)


def test_an_answered_request_gets_the_same_bytes_at_no_charge(desk: Desk) -> None:
    desk.reserve("r1")
    release = desk.release("r1", "train", 1)
    assert reply(desk, release) is None
    with desk.open() as ledger:
        ledger.commit(release, request_digest="r1", reply=b"\x00\xff noisy")
    before = desk.contents()
    for _ in range(3):
        assert reply(desk, release) == b"\x00\xff noisy"
    assert desk.contents() == before


def test_the_same_identity_with_other_content_is_refused(desk: Desk) -> None:
    desk.reserve("r1")
    desk.commit("r1", "train", 1)
    before = desk.contents()
    with pytest.raises(LedgerError, match="other content"):
        reply(desk, desk.release("r1", "train", 1), "r2")
    with pytest.raises(LedgerError, match="already used"):
        desk.commit("r1", "train", 1)
    assert desk.contents() == before


def test_older_replies_are_forgotten_and_never_made_again(desk: Desk) -> None:
    desk.reserve("r1")
    desk.commit("r1", "statistics")
    desk.commit("r1", "train", 1)
    desk.commit("r1", "train", 2)
    assert reply(desk, desk.release("r1", "train", 2)) == b"train/2/0"
    assert reply(desk, desk.release("r1", "statistics")) == b"statistics/0/0"
    with pytest.raises(LedgerError, match="no longer kept"):
        reply(desk, desk.release("r1", "train", 1))
    with pytest.raises(LedgerError, match="already used"):
        desk.commit("r1", "train", 1)


def test_every_attempt_is_a_charge_of_its_own(desk: Desk) -> None:
    desk.reserve("r1")
    desk.commit("r1", "train", 1, attempt=0)
    desk.commit("r1", "train", 1, attempt=1)
    desk.commit("r1", "train", 1, attempt=2)
    assert reply(desk, desk.release("r1", "train", 1, attempt=1)) == b"train/1/1"
    before = desk.contents()
    with pytest.raises(BudgetError, match="all planned releases of this step were made"):
        desk.commit("r1", "train", 1, attempt=3)
    assert desk.contents() == before


@pytest.mark.parametrize(
    ("step", "planned"), [("statistics", 1), ("preprocess", 1), ("train", 3), ("analyze", 1)]
)
def test_no_step_makes_more_releases_than_planned(desk: Desk, step: str, planned: int) -> None:
    desk.reserve("r1")
    for number in range(planned):
        desk.commit("r1", step, number)
    before = desk.contents()
    with pytest.raises(BudgetError, match=step):
        desk.commit("r1", step, planned)
    assert desk.contents() == before


def test_a_step_that_the_plan_does_not_know_is_refused(desk: Desk) -> None:
    desk.reserve("r1")
    before = desk.contents()
    with pytest.raises(BudgetError):
        desk.commit("r1", "peek")
    assert desk.contents() == before


def test_nothing_is_released_without_a_claim(desk: Desk) -> None:
    with pytest.raises(LedgerError, match="open claim"):
        desk.commit("r1", "train", 1)
    desk.reserve("r1")
    with pytest.raises(LedgerError, match="open claim"):
        desk.commit("r2", "train", 1)


def test_nothing_is_released_after_the_end(desk: Desk) -> None:
    desk.reserve("r1")
    desk.commit("r1", "train", 1)
    desk.close("r1")
    with pytest.raises(LedgerError, match="open claim"):
        desk.commit("r1", "train", 2)
    with pytest.raises(LedgerError, match="no longer kept"):
        reply(desk, desk.release("r1", "train", 1))


def test_closing_frees_exactly_what_was_not_committed(desk: Desk) -> None:
    desk.reserve("r1")
    whole = desk.held()
    desk.commit("r1", "statistics")
    desk.commit("r1", "train", 1)
    desk.commit("r1", "train", 2)
    assert desk.held() == whole
    desk.close("r1")
    assert desk.held() == pytest.approx(
        {
            "ada/undated/train": per_release(desk, "labels", "columns", "training", "training"),
            "ada/undated/eval": per_release(desk, "labels", "columns"),
        }
    )


def test_closing_an_unused_claim_frees_everything(desk: Desk) -> None:
    for number in range(10):
        desk.reserve(f"r{number}")
        desk.close(f"r{number}")
    assert set(desk.held().values()) == {0.0}


def test_closing_twice_or_nothing_changes_nothing(desk: Desk) -> None:
    desk.reserve("r1")
    desk.commit("r1", "statistics")
    desk.close("r1")
    before = desk.contents()
    desk.close("r1")
    desk.close("r7")
    assert desk.contents() == before


def test_a_finished_run_leaves_less_for_the_next(desk: Desk) -> None:
    for run in ("r1", "r2", "r3"):
        desk.reserve(run)
        for step, number in (("statistics", 0), ("preprocess", 0), ("train", 1), ("train", 2), ("train", 3)):
            desk.commit(run, step, number)
        desk.close(run)
    with pytest.raises(BudgetError):
        desk.reserve("r4")


def test_a_run_without_privacy_is_not_counted(desk: Desk, not_private: PrivacyPlan) -> None:
    desk.reserve("r1", plan=not_private, blocks=[])
    for number in range(20):
        desk.commit("r1", "train", number, charged=False)
    assert desk.held() == {}
    assert reply(desk, desk.release("r1", "train", 19)) == b"train/19/0"
    with desk.open() as ledger:
        assert ledger.num_releases("r1") == 20
    with pytest.raises(BudgetError):
        desk.commit("r1", "train", 20)


def test_a_run_with_privacy_makes_no_uncharged_release(desk: Desk) -> None:
    desk.reserve("r1")
    before = desk.contents()
    with pytest.raises(LedgerError, match="charged"):
        desk.commit("r1", "train", 1, charged=False)
    assert desk.contents() == before


def test_releases_are_counted_by_run(desk: Desk) -> None:
    desk.reserve("r1")
    desk.reserve("r2")
    desk.commit("r1", "statistics")
    desk.commit("r1", "train", 1)
    desk.commit("r2", "statistics")
    with desk.open() as ledger:
        assert [ledger.num_releases(run) for run in ("r1", "r2", "r3")] == [2, 1, 0]


@contextmanager
def files_below(num_bytes: int) -> Iterator[None]:
    """Lets this process write no file beyond `num_bytes`: to SQLite, a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def commit_large(desk: Desk, run_id: str, server_round: int, *, size: int = LARGE) -> bytes:
    answer = os.urandom(size)
    with desk.open() as ledger:
        ledger.commit(desk.release(run_id, "train", server_round), request_digest="r1", reply=answer)
    return answer


def test_a_large_reply_takes_the_place_of_the_one_before(desk: Desk) -> None:
    desk.reserve("r1")
    for server_round in (1, 2, 3):
        commit_large(desk, "r1", server_round)
    assert desk.path.stat().st_size < 1.5 * LARGE


def test_closing_gives_the_disk_back_and_changes_nothing_else(desk: Desk) -> None:
    desk.reserve("r1")
    desk.reserve("r2")
    commit_large(desk, "r1", 1)
    desk.commit("r2", "train", 1)
    before = desk.contents()

    desk.close("r1")

    after = desk.contents()
    assert desk.path.stat().st_size < LARGE / 10
    assert check_ledger(LedgerStore.at(desk.path)).findings == ()
    for table in ("blocks", "divisions", "releases", "reservations"):
        assert after[table] == before[table]
    assert set(before["entries"]) < set(after["entries"])
    assert reply(desk, desk.release("r2", "train", 1)) == b"train/1/0"


def test_closing_keeps_a_large_reply_of_another_run(desk: Desk) -> None:
    desk.reserve("r1")
    desk.reserve("r2")
    commit_large(desk, "r1", 1)
    kept = commit_large(desk, "r2", 1)

    desk.close("r1")

    assert reply(desk, desk.release("r2", "train", 1)) == kept


def test_a_run_is_closed_although_its_disk_cannot_be_given_back(
    make_desk: Callable[..., Desk], caplog: pytest.LogCaptureFixture
) -> None:
    desk = make_desk(runs=6)
    others = [f"other-{number}" for number in range(5)]
    for run_id in ("r1", *others):
        desk.reserve(run_id)
    kept = commit_large(desk, "r1", 1, size=4 * LARGE)
    for run_id in others:
        commit_large(desk, run_id, 1)
    for run_id in others[:-1]:
        desk.close(run_id)

    with files_below(2 * LARGE):
        desk.close(others[-1])

    assert "stays as large as it was" in caplog.text
    assert desk.path.stat().st_size > 9 * LARGE
    assert check_ledger(LedgerStore.at(desk.path)).findings == ()
    assert reply(desk, desk.release("r1", "train", 1)) == kept
    with pytest.raises(LedgerError, match="open claim"):
        desk.commit(others[-1], "train", 2)


def test_times_come_from_the_clock(desk: Desk) -> None:
    desk.reserve("r1")
    desk.commit("r1", "statistics")
    tables = desk.contents()
    assert {row[-1] for name in ("claims", "blocks", "releases") for row in tables[name]} == {
        "2024-05-01T12:00:00.000+00:00"
    }
