"""The node: where the owner's things are, and what its parts may show."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clients.node import Node
from clients.records import encode
from fedpipe.errors import FederationError, LedgerError
from fedpipe.federation import Request
from fedpipe.federation.terms import RunTerms
from fedpipe.ledger import LedgerStore
from fedpipe.privacy import SecureRandomness, SeededRandomness

CONFIG = {"client": "client-1", "source": "s.csv", "key": "k", "ledger": "l", "policy": "{}"}


@pytest.mark.parametrize("entry", sorted(CONFIG))
def test_a_missing_entry_is_named(entry: str) -> None:
    with pytest.raises(FederationError, match=entry):
        Node.from_config({name: value for name, value in CONFIG.items() if name != entry})


@pytest.mark.parametrize("policy", ["", "[]", "{", '{"lifetime": 3}'])
def test_a_malformed_policy_is_refused(policy: str) -> None:
    with pytest.raises(FederationError, match="policy"):
        Node.from_config(CONFIG | {"policy": policy})


@pytest.mark.parametrize("name", ["", "a/b", "../a", "a b", "a\n", "-a", "é"])
def test_a_client_s_name_cannot_be_taken_for_another_block(name: str) -> None:
    with pytest.raises(FederationError, match="client name"):
        Node.from_config(CONFIG | {"client": name})


def test_an_account_is_the_client_s_name_unless_told_otherwise() -> None:
    assert Node.from_config(CONFIG).account == "client-1"
    assert Node.from_config(CONFIG | {"account": "hearts.client-1"}).account == "hearts.client-1"
    with pytest.raises(FederationError, match="client name"):
        Node.from_config(CONFIG | {"account": "a/b"})


def test_a_ledger_may_be_in_a_database_whose_password_is_not_shown(tmp_path: Path) -> None:
    url = "postgresql+psycopg://ada:SECRET@127.0.0.1:1/bank"
    with pytest.raises(LedgerError, match="key") as caught:
        Node.from_config(CONFIG | {"ledger": url})
    assert "SECRET" not in str(caught.value)
    node = Node.from_config(CONFIG | {"ledger": url, "ledger_key": str(tmp_path / "bank.key")})
    assert str(node.ledger) == "postgresql+psycopg://127.0.0.1:1/bank"
    assert "SECRET" not in f"{node!r} {node.ledger!r}"


def test_the_repr_shows_no_paths(make_node: Callable[..., Node], tmp_path: Path) -> None:
    assert str(tmp_path) not in repr(make_node())


@pytest.mark.parametrize("key", [b"", b"short"])
def test_a_key_that_can_be_guessed_is_refused(make_node: Callable[..., Node], key: bytes) -> None:
    node = make_node()
    node.key_path.write_bytes(key)
    with pytest.raises(FederationError, match="16 bytes"):
        _ = node.key


def test_records_are_read_once_and_again_when_their_file_changes(
    make_node: Callable[..., Node], make_terms: Callable[..., RunTerms]
) -> None:
    node, terms = make_node(), make_terms()
    first = node.shard(terms)
    assert node.shard(terms) is first
    records = encode(first.labelled_train, _transform(), node.scratch)
    assert encode(first.labelled_train, _transform(), node.scratch) is records
    with node.source.open("a") as lines:
        lines.write("r99,50,ulm,y\n")
    assert len(node.shard(terms).labels) == len(first.labels) + 1


def test_a_record_keeps_its_split_whatever_else_the_file_holds(
    make_node: Callable[..., Node], make_terms: Callable[..., RunTerms]
) -> None:
    terms, node = make_terms(), make_node()
    before = dict(zip(node.shard(terms).frame["record_id"], node.shard(terms).is_eval, strict=True))
    lines = node.source.read_text().splitlines()
    node.source.write_text("\n".join([lines[0], *reversed(lines[2:]), "r99,1,ulm,n"]) + "\n")
    after = dict(zip(node.shard(terms).frame["record_id"], node.shard(terms).is_eval, strict=True))
    assert len(after) == len(before)
    assert all(before[name] == after[name] for name in before.keys() & after.keys())


def test_a_run_without_privacy_has_no_blocks(
    make_node: Callable[..., Node], make_terms: Callable[..., RunTerms]
) -> None:
    terms = make_terms()
    assert [str(block) for block in make_node().blocks(terms)] == [
        "client-1/undated/train",
        "client-1/undated/eval",
    ]
    without = terms.model_copy(update={"plan": terms.plan.model_copy(update={"private": False})})
    assert make_node().blocks(without) == []


def test_a_secure_plan_never_draws_from_a_seed(
    make_node: Callable[..., Node], make_terms: Callable[..., RunTerms]
) -> None:
    plan = make_terms().plan.model_copy(update={"randomness": "secure"})
    assert isinstance(make_node().randomness(plan, Request(run_id="r", step="train")), SecureRandomness)


def _draws(node: Node, plan: Any, **request: Any) -> list[float]:
    generator = node.randomness(plan, Request(run_id="r", step="train", **request))
    assert isinstance(generator, SeededRandomness)
    return list(generator.normal(3))


def test_seeded_draws_repeat_and_differ_by_client_round_and_attempt(
    make_node: Callable[..., Node], make_terms: Callable[..., RunTerms]
) -> None:
    plan = make_terms().plan
    base = _draws(make_node(), plan)
    assert _draws(make_node(), plan) == base
    others = [
        _draws(make_node("client-2"), plan),
        _draws(make_node(seed=6), plan),
        _draws(make_node(), plan, server_round=1),
        _draws(make_node(), plan, attempt=1),
    ]
    assert all(other != base for other in others)


def test_a_seeded_plan_without_the_owner_s_seed_draws_nothing(
    make_node: Callable[..., Node], make_terms: Callable[..., RunTerms]
) -> None:
    with pytest.raises(LedgerError, match="refused by policy"):
        make_node(seed=None).randomness(make_terms().plan, Request(run_id="r", step="train"))


@pytest.mark.parametrize("content", [b"no ledger", b""])
def test_a_ledger_that_cannot_be_used_is_refused_without_its_path(
    make_node: Callable[..., Node], content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    node = make_node()
    node.ledger.path.write_bytes(content)
    with pytest.raises(LedgerError, match="own log") as caught, node.open_ledger():
        pass
    assert str(node.ledger) not in str(caught.value)
    assert str(node.ledger) in caplog.text  # which is the owner's


def test_a_database_that_cannot_be_reached_is_refused_without_its_place(
    make_node: Callable[..., Node], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = LedgerStore.at("postgresql+psycopg://ada:SECRET@127.0.0.1:1/bank", key=tmp_path / "bank.key")
    node = replace(make_node(), ledger=store)
    with pytest.raises(LedgerError, match="own log") as caught, node.open_ledger():
        pass
    assert "127.0.0.1" not in str(caught.value)
    assert "127.0.0.1:1/bank" in caplog.text
    assert "SECRET" not in caplog.text


def _transform() -> Any:
    from fedpipe.data import Transform

    feature = {
        "type": "numeric",
        "column": "age",
        "lower": 0.0,
        "upper": 100.0,
        "center": 0.0,
        "scale": 1.0,
    }
    return Transform.model_validate_json(json.dumps({"features": [feature], "missing_tokens": [""]}))
