"""What every store of a ledger promises: the same answers, durable, one at a time."""

from __future__ import annotations

import itertools
import os
import signal
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from fedpipe.errors import BudgetError, LedgerError
from fedpipe.ledger import Block, Ledger, LedgerStore, ReleaseId, SignedHead, policy_for_runs
from fedpipe.ledger.check import check_ledger
from fedpipe.ledger.history_reading import read_history
from fedpipe.privacy import DpSgd, NoisyHistograms, PrivacyPlan, Query
from tests.races import FORK, race

MAY = datetime(2024, 5, 1, 12, tzinfo=timezone.utc)
SCHEMAS = itertools.count()


def make_plan() -> PrivacyPlan:
    def counts(step: str) -> Query:
        return Query(
            step=step, splits=("all",), mechanism=NoisyHistograms(noise_stddev=10.0, num_histograms=1)
        )

    training = DpSgd(
        sampling_probability=0.5, clipping_norm=1.0, noise_multiplier=2.0, num_rounds=3, local_steps=1
    )
    return PrivacyPlan(
        private=True,
        epsilon=10.0,
        delta=1e-5,
        keyed=False,
        randomness="secure",
        queries={
            "labels": counts("statistics"),
            "columns": counts("statistics"),
            "features": counts("preprocess"),
            "training": Query(step="train", splits=("all",), mechanism=training),
            "evaluation": counts("analyze"),
        },
    )


@dataclass(frozen=True, kw_only=True)
class Desk:
    """A store, and short ways to use its ledger as one client."""

    store: LedgerStore
    plan: PrivacyPlan
    runs: int = 3

    def open(self) -> Ledger:
        return Ledger(self.store, clock=lambda: MAY)

    def reserve(self, run_id: str, *spans: str) -> None:
        with self.open() as ledger:
            ledger.reserve(
                run_id=run_id,
                client="ada",
                terms='{"agreed":true}',
                terms_digest="d1",
                plan=self.plan,
                blocks=[Block(client="ada", span=span, split="all") for span in spans or ("undated",)],
                policy=policy_for_runs(self.plan, self.runs),
            )

    def commit(self, run_id: str, step: str, server_round: int = 0) -> None:
        release = ReleaseId(run_id=run_id, client="ada", step=step, server_round=server_round)
        with self.open() as ledger:
            ledger.commit(release, request_digest="r1", reply=f"{step}/{server_round}".encode())

    def close(self, run_id: str) -> None:
        with self.open() as ledger:
            ledger.close(run_id, "ada")

    def held(self) -> dict[str, float]:
        with self.open() as ledger:
            return {str(spending.block): spending.held for spending in ledger.spending()}

    def head(self) -> SignedHead:
        with self.open() as ledger:
            return ledger.head()

    def findings(self) -> tuple[str, ...]:
        return check_ledger(self.store).findings

    def execute(self, statement: str) -> None:
        """Edits behind the ledger's back."""
        engine = create_engine(self.store.url)
        with engine.begin() as connection:
            connection.execute(text(statement))
        engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> LedgerStore:
    if request.param == "sqlite":
        return LedgerStore.at(tmp_path / "store" / "ledger.db")
    url = request.getfixturevalue("postgresql")
    schema = f"bank_{os.getpid()}_{next(SCHEMAS)}"
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    engine.dispose()
    return LedgerStore.at(f"{url}&options=-csearch_path%3D{schema}", key=tmp_path / "keys" / "bank.key")


@pytest.fixture
def desk(store: LedgerStore) -> Desk:
    return Desk(store=store, plan=make_plan())


def test_budgets_admit_what_fits_and_refuse_the_rest_without_a_trace(desk: Desk) -> None:
    for run in ("r1", "r2", "r3"):
        desk.reserve(run)
    before = desk.head()
    with pytest.raises(BudgetError, match="ada/undated/all"):
        desk.reserve("r4")
    assert desk.head() == before
    desk.close("r1")
    desk.reserve("r4")
    assert desk.findings() == ()


def test_a_release_is_kept_with_its_charge_and_answers_again(desk: Desk) -> None:
    desk.reserve("r1")
    desk.commit("r1", "train", 1)
    release = ReleaseId(run_id="r1", client="ada", step="train", server_round=1)
    with desk.open() as ledger:
        assert ledger.stored_reply(release, "r1") == b"train/1"
        with pytest.raises(LedgerError, match="other content"):
            ledger.stored_reply(release, "r2")
        assert ledger.terms("r1", "ada") == '{"agreed":true}'
        assert ledger.costs("r1")["train"].num_releases == 1
    whole = desk.held()["ada/undated/all"]
    desk.close("r1")
    assert 0 < desk.held()["ada/undated/all"] < whole
    assert desk.findings() == ()


def test_every_change_is_an_entry_that_follows_from_the_one_before(desk: Desk) -> None:
    desk.reserve("r1")
    desk.commit("r1", "statistics")
    desk.close("r1")
    with desk.open() as ledger:
        entries = list(ledger.entries())
        assert list(ledger.entries(after=4)) == entries[4:]
        head = ledger.head()
    kinds = [entry.kind for entry in entries]
    assert kinds == ["ledger", "division", "blocks", "claim", "release", "close"]
    assert [entry.position for entry in entries] == [1, 2, 3, 4, 5, 6]
    assert [entry.previous for entry in entries[1:]] == [entry.digest for entry in entries[:-1]]
    assert head.is_genuine
    assert (head.position, head.digest) == (6, entries[-1].digest)


def test_eight_processes_share_a_budget_and_never_overspend(desk: Desk) -> None:
    """Each tries to claim, release and close; three claims fit at a time."""

    def life(number: int) -> None:
        for attempt in range(3):
            run = f"r{number}.{attempt}"
            desk.reserve(run)
            for server_round in (1, 2, 3):
                desk.commit(run, "train", server_round)
            desk.close(run)

    found = race([partial(life, number) for number in range(8)])
    assert "BudgetError" in found
    with desk.open() as ledger:
        spending = ledger.spending()
        claims = sum(entry.kind == "claim" for entry in ledger.entries())
    assert all(each.held <= each.budget for each in spending)
    assert claims >= 3
    assert desk.findings() == ()


def test_the_last_of_a_budget_goes_to_one_of_eight(store: LedgerStore) -> None:
    desk = Desk(store=store, plan=make_plan(), runs=1)
    found = race([partial(desk.reserve, f"r{number}") for number in range(8)])
    assert found == ["BudgetError"] * 7 + ["won"]
    assert desk.findings() == ()


def test_the_same_release_made_at_once_is_charged_once(desk: Desk) -> None:
    desk.reserve("r1")
    assert race([partial(desk.commit, "r1", "train", 1)] * 4) == ["LedgerError"] * 3 + ["won"]
    with desk.open() as ledger:
        assert ledger.num_releases("r1") == 1


def test_death_before_the_commit_is_durable_leaves_nothing(desk: Desk) -> None:
    desk.reserve("r1")
    before = desk.head()

    def action() -> None:
        with desk.open() as ledger, ledger._writing() as chain:
            from fedpipe.ledger.entries import ClaimClosed

            chain.append(ClaimClosed(run_id="r1", client="ada"))
            os.kill(os.getpid(), signal.SIGKILL)

    child = FORK.Process(target=action)
    child.start()
    child.join(timeout=60)
    assert child.exitcode == -signal.SIGKILL
    assert desk.head() == before
    desk.commit("r1", "train", 1)
    assert desk.findings() == ()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE queries SET committed = 0, counted = 0",
        "DELETE FROM releases",
        "UPDATE claims SET state = 'closed'",
        "UPDATE entries SET made_at = '2020' WHERE position = (SELECT max(position) FROM entries)",
        "UPDATE entries SET signature = 'AAAA' WHERE position = (SELECT max(position) FROM entries)",
        "DELETE FROM entries WHERE position = (SELECT max(position) FROM entries)",
        "DELETE FROM entries",
    ],
)
def test_an_edited_ledger_stops(desk: Desk, statement: str) -> None:
    desk.reserve("r1")
    desk.commit("r1", "train", 1)
    desk.execute(statement)
    with pytest.raises(LedgerError, match="fedpipe budget check"):
        desk.commit("r1", "train", 2)
    assert desk.findings()


def test_a_vanished_ledger_is_not_begun_again(desk: Desk) -> None:
    desk.reserve("r1")
    if desk.store.path is not None:
        for path in desk.store.path.parent.glob("ledger.db*"):
            if path != desk.store.key_path:
                path.unlink()
    else:
        desk.execute("DROP SCHEMA " + desk.store.url.render_as_string().rpartition("%3D")[2] + " CASCADE")
        desk.execute("CREATE SCHEMA " + desk.store.url.render_as_string().rpartition("%3D")[2])
    with pytest.raises(LedgerError, match="forget what was spent"):
        desk.reserve("r2")


def test_another_key_is_refused(desk: Desk, tmp_path: Path) -> None:
    desk.reserve("r1")
    from fedpipe.signing import hold_key

    hold_key(tmp_path / "other.key")
    stolen = Desk(store=LedgerStore(url=desk.store.url, key_path=tmp_path / "other.key"), plan=desk.plan)
    with pytest.raises(LedgerError, match="signed by another"):
        stolen.reserve("r2")
    assert any("is not the one" in finding for finding in stolen.findings())
    desk.reserve("r2")


def test_a_gap_counts_everything_known_as_spent_and_admits_only_later_spans(desk: Desk) -> None:
    desk.reserve("r1", "2024-03", "2024-04")
    key = desk.head()
    from fedpipe.signing import read_key

    lost = SignedHead.sign(read_key(desk.store.key_path), key.position + 5, "f" * 64)
    with desk.open() as ledger:
        ledger.meet(key)
        with pytest.raises(LedgerError, match="restored from an older backup"):
            ledger.meet(lost)
        ledger.meet(lost)  # known now
        assert [each.remaining for each in ledger.spending()] == [0.0, 0.0]
        assert all(each.in_gap for each in ledger.spending())
    with pytest.raises(BudgetError):
        desk.reserve("r2", "2024-04")
    with pytest.raises(LedgerError, match="start a new run"):
        desk.commit("r1", "train", 1)  # it may have been made, and forgotten
    for forgotten in ("2024-02", "2024-05", "undated"):
        with pytest.raises(LedgerError, match="begins after 2024-05-01"):
            desk.reserve("r3", forgotten)
    desk.reserve("r4", "2024-06")
    desk.commit("r4", "train", 1)
    found = check_ledger(desk.store)
    assert found.findings == ()
    assert len(found.gaps) == 1


def test_a_history_says_what_the_filter_counts_and_names_nobody(desk: Desk) -> None:
    """Also while somebody writes: neither reports nor checks wait for, or hold up, a release."""
    desk.reserve("r1", "2024-01", "2024-02")
    desk.commit("r1", "train", 1)
    place = (
        desk.store.url.render_as_string(hide_password=False) if desk.store.path is None else desk.store.path
    )
    with desk.open() as ledger, ledger._writing():
        history = read_history(place)
        assert desk.findings() == ()
    assert {str(each.block): each.spent + each.reserved for each in history.blocks} == pytest.approx(
        desk.held()
    )
    assert history.ledger == str(desk.store)
    assert "ledger@" not in history.ledger


def test_other_ledgers_heads_are_kept_and_contradictions_refused(desk: Desk, tmp_path: Path) -> None:
    from fedpipe.signing import hold_key

    key = hold_key(tmp_path / "peer.key")
    first, second = SignedHead.sign(key, 3, "a" * 64), SignedHead.sign(key, 7, "b" * 64)
    with desk.open() as ledger:
        ledger.witness("bob", first)
        ledger.witness("bob", second)
        ledger.witness("bob", first)  # old news
        before = ledger.head()
        with pytest.raises(LedgerError, match="forked"):
            ledger.witness("bob", SignedHead.sign(key, 7, "c" * 64))
        with pytest.raises(LedgerError, match="another signature"):
            ledger.witness("bob", second.model_copy(update={"position": 8}))
        with pytest.raises(LedgerError, match="another key"):
            ledger.witness("bob", SignedHead.sign(hold_key(tmp_path / "new.key"), 9, "d" * 64))
        assert ledger.head() == before
        assert [entry.kind for entry in ledger.entries()] == ["ledger", "witness", "witness"]
    assert desk.findings() == ()


@pytest.mark.parametrize(
    ("option", "words"),
    [("synchronous_commit=off", "synchronous_commit=off: turn it on"), ("search_path=nowhere", "create it")],
)
def test_a_server_that_cannot_keep_a_ledger_is_refused(
    postgresql: str, tmp_path: Path, option: str, words: str
) -> None:
    url = f"{postgresql}&options=-c{option.replace('=', '%3D')}"
    with pytest.raises(LedgerError, match=words):
        Ledger(LedgerStore.at(url, key=tmp_path / "bank.key"))
    assert not (tmp_path / "bank.key").exists()


def test_a_stricter_server_changes_nothing(postgresql: str, tmp_path: Path) -> None:
    """Its transactions would see what was there before they waited for the lock."""
    options = "-csearch_path%3Dstrict -cdefault_transaction_isolation%3Dserializable"
    store = LedgerStore.at(f"{postgresql}&options={options}", key=tmp_path / "bank.key")
    engine = create_engine(postgresql)
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA strict"))
    engine.dispose()
    desk = Desk(store=store, plan=make_plan(), runs=1)
    desk.held()
    found = race([partial(desk.reserve, f"r{number}") for number in range(8)])
    assert found == ["BudgetError"] * 7 + ["won"]
