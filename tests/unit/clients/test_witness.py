"""Nodes and coordinator keep each other's heads: nobody's ledger can forget what it once showed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clients.app import app
from clients.node import Node
from fedpipe.errors import LedgerError
from fedpipe.federation import Refusal, Reply, Request
from fedpipe.federation.flower_clients import FlowerClients
from fedpipe.federation.in_process import InProcessGrid
from fedpipe.federation.messages import Heads
from fedpipe.federation.terms import RunTerms
from fedpipe.federation.witness import Witness
from fedpipe.ledger import Ledger, SignedHead
from fedpipe.ledger.check import check_ledger
from fedpipe.ledger.stores import LedgerStore

STATISTICS = Request(run_id="run-1", step="statistics")
PREPROCESS = Request(run_id="run-1", step="preprocess")

Answers = dict[str, Reply | Refusal]


class Federation:
    """Two nodes, each with a ledger of its own, and a coordinator that can be restarted."""

    def __init__(self, nodes: list[Node], folder: Path) -> None:
        self.nodes = [
            replace(node, ledger=LedgerStore.at(folder / node.name / "ledger.sqlite")) for node in nodes
        ]
        self.own_path = folder / "witness.sqlite"
        self.start()

    def start(self) -> None:
        configs = [
            {
                "client": node.name,
                "source": str(node.source),
                "key": str(node.key_path),
                "ledger": str(node.ledger),
                "policy": node.policy.model_dump_json(),
            }
            for node in self.nodes
        ]
        self.own = Ledger(self.own_path)
        self.clients = FlowerClients(InProcessGrid(app, configs), witness=Witness(self.own))

    def stop(self) -> None:
        self.own.__exit__(None, None, None)

    def ask(self, request: Request) -> Answers:
        replies, refusals = self.clients.ask(request, timeout_seconds=20)
        return {answer.client: answer for answer in (*replies, *refusals)}

    def remaining(self, number: int) -> list[float]:
        with Ledger(self.nodes[number].ledger) as ledger:
            return [each.remaining for each in ledger.spending()]


@pytest.fixture
def federation(make_node: Callable[..., Node], tmp_path: Path) -> Iterator[Federation]:
    made = Federation([make_node("a"), make_node("b")], tmp_path / "f")
    yield made
    made.stop()


@pytest.fixture
def claim(make_terms: Callable[..., RunTerms], offer: Callable[..., Request]) -> Request:
    return offer(make_terms())


def restart(federation: Federation) -> None:
    federation.stop()
    federation.start()


def path_of(node: Node) -> Path:
    assert node.ledger.path is not None
    return node.ledger.path


def copy_of(node: Node, to: Path) -> Path:
    """Returns a backup: the ledger's file alone, as somebody's nightly job would copy it."""
    with Ledger(node.ledger):
        pass  # the last connection to close folds the log into the file
    return Path(shutil.copy(path_of(node), to))


def reason(answer: Reply | Refusal) -> str:
    assert isinstance(answer, Refusal), answer
    assert answer.kind == "LedgerError"
    return answer.reason


def heads_in(store: LedgerStore) -> dict[str, SignedHead]:
    with Ledger(store) as ledger:
        return ledger.all_witnessed()


def test_each_side_countersigns_what_the_other_shows(federation: Federation, claim: Request) -> None:
    for request in (claim, STATISTICS, PREPROCESS):
        assert all(isinstance(answer, Reply) for answer in federation.ask(request).values())
    kept = federation.own.all_witnessed()
    assert sorted(kept) == ["a", "b"]
    for node in federation.nodes:
        assert not check_ledger(node.ledger, [kept[node.name]]).findings
        shown = heads_in(node.ledger)
        assert list(shown) == [f"coordinator {federation.own.head().ledger}"]
        assert not check_ledger(LedgerStore.at(federation.own_path), list(shown.values())).findings


@pytest.mark.parametrize("restarted", [False, True], ids=["same-coordinator", "coordinator-restarted"])
def test_a_node_restored_from_a_backup_stops_and_counts_the_gap_as_spent(
    federation: Federation, claim: Request, tmp_path: Path, restarted: bool
) -> None:
    """The others go on; a coordinator that was restarted still knows what it was shown."""
    federation.ask(claim)
    backup = copy_of(federation.nodes[0], tmp_path / "backup")
    federation.ask(STATISTICS)
    shutil.copy(backup, path_of(federation.nodes[0]))
    if restarted:
        restart(federation)
        federation.ask(Request(run_id="other", step="finish"))  # who is who
    answers = federation.ask(PREPROCESS)
    assert "older backup" in reason(answers["a"])
    assert isinstance(answers["b"], Reply)
    assert federation.remaining(0) == [0.0, 0.0]
    assert min(federation.remaining(1)) > 0
    assert "forgotten what was spent" in reason(federation.ask(replace(PREPROCESS, attempt=1))["a"])


def test_a_ledger_that_began_anew_is_refused_by_the_coordinator(
    federation: Federation, claim: Request
) -> None:
    federation.ask(claim)
    shutil.rmtree(path_of(federation.nodes[0]).parent)
    assert "found none" in reason(federation.ask(claim)["a"])
    restart(federation)
    answers = federation.ask(claim)
    assert "another, which forgets" in reason(answers["a"])
    assert isinstance(answers["b"], Reply)


def test_a_coordinator_restored_from_a_backup_is_told_by_its_nodes(
    federation: Federation, claim: Request, tmp_path: Path
) -> None:
    federation.ask(claim)
    federation.stop()
    backup = Path(shutil.copy(federation.own_path, tmp_path / "backup"))
    federation.start()
    federation.ask(STATISTICS)
    federation.ask(PREPROCESS)
    federation.stop()
    shutil.copy(backup, federation.own_path)
    federation.start()
    with pytest.raises(LedgerError, match="older backup"):
        federation.ask(Request(run_id="r", step="finish"))


def test_a_forged_head_is_refused_and_not_kept(federation: Federation, claim: Request) -> None:
    federation.ask(claim)
    before = federation.own.all_witnessed()
    forged = before["b"].model_copy(update={"position": 99})
    replies = [Reply(client="a", heads=Heads(sender=forged)), Reply(client="b")]
    kept, refused = Witness(federation.own).keep(replies)
    assert not kept
    assert [refusal.client for refusal in refused] == ["a", "b"]
    assert federation.own.all_witnessed() == before


def test_a_node_learns_nothing_from_a_head_of_another_ledger(federation: Federation, claim: Request) -> None:
    federation.ask(claim)
    shown = federation.own.all_witnessed()
    with pytest.raises(LedgerError, match="proves nothing"):
        federation.nodes[0].exchange(Heads(receiver=shown["b"]))
    assert min(federation.remaining(0)) > 0


def test_heads_are_no_part_of_what_is_answered(federation: Federation, claim: Request) -> None:
    """A repeated request gets its stored answer, whatever heads travel beside it."""
    federation.ask(claim)
    first, again = (federation.ask(STATISTICS)["a"] for _ in range(2))
    assert isinstance(first, Reply)
    assert isinstance(again, Reply)
    assert {name: array.tolist() for name, array in first.arrays.items()} == {
        name: array.tolist() for name, array in again.arrays.items()
    }
    assert STATISTICS.digest == replace(STATISTICS, heads=Heads(sender=federation.own.head())).digest


def test_clients_that_share_a_ledger_are_witnessed_together(
    make_node: Callable[..., Node], claim: Request, tmp_path: Path
) -> None:
    nodes = [make_node("a"), make_node("b")]
    federation = Federation(nodes, tmp_path / "f")
    federation.stop()
    federation.nodes = nodes
    federation.start()
    for request in (claim, STATISTICS):
        federation.ask(request)
    kept: dict[str, Any] = federation.own.all_witnessed()
    assert list(kept) == ["b"]
    with Ledger(nodes[0].ledger) as ledger:
        assert ledger.head() == kept["b"]
    federation.stop()
