"""The index of first spans: an amended record keeps its block, and nothing lost is begun afresh."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients import handlers, index
from clients.index import first_spans, index_identity, record_digests
from clients.node import Node
from fedpipe.errors import LedgerError
from fedpipe.federation import Request
from fedpipe.federation.terms import RunTerms
from fedpipe.ledger import Ledger

KEY = b"k" * 32
MakeTerms = Callable[..., RunTerms]
Offer = Callable[..., Request]


def spans_of(path: Path, records: dict[str, str], key: bytes = KEY) -> dict[str, str]:
    """Returns the span of every record, by its own key; values are the spans that its date now says."""
    found = first_spans(path, record_digests(list(records), key), np.array(list(records.values())))
    return dict(zip(records, found.tolist(), strict=True))


def test_a_record_keeps_the_span_it_was_first_seen_in(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    assert spans_of(path, {"a": "2026-01", "b": "2026-02"}) == {"a": "2026-01", "b": "2026-02"}
    amended = {"b": "2026-01", "c": "2026-03", "a": "2026-03"}
    assert spans_of(path, amended) == {"b": "2026-02", "c": "2026-03", "a": "2026-01"}
    assert spans_of(path, {"a": "undated", "c": "2025-12"}) == {"a": "2026-01", "c": "2026-03"}
    assert path.stat().st_mode & 0o777 == 0o600


def test_undated_records_and_those_without_a_key_are_not_held(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    assert spans_of(path, {"a": "undated", "": "2026-01"}) == {"a": "undated", "": "2026-01"}
    assert spans_of(path, {"a": "2026-02", "": "2026-03"}) == {"a": "2026-02", "": "2026-03"}


def test_rows_that_share_a_key_share_the_earliest_span_in_any_order(tmp_path: Path) -> None:
    spans = np.array(["2026-03", "2026-01", "undated", "2026-02"])
    records = record_digests(["a", "a", "a", "b"], KEY)
    for name, order in (("one", [0, 1, 2, 3]), ("two", [2, 3, 1, 0])):
        found = first_spans(tmp_path / name, records[order], spans[order])
        assert found.tolist() == [["2026-01", "2026-01", "2026-01", "2026-02"][place] for place in order]


def test_an_export_again_changes_nothing(tmp_path: Path) -> None:
    path, records = tmp_path / "index.sqlite", {f"r{n}": f"2026-0{1 + n % 9}" for n in range(500)}
    spans_of(path, records)
    before = path.read_bytes()
    assert spans_of(path, dict(reversed(records.items()))) == records
    assert path.read_bytes() == before


def test_records_are_known_by_a_keyed_digest_alone(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    spans_of(path, {"case-4711": "2026-01"})
    assert b"case-4711" not in path.read_bytes()
    assert spans_of(path, {"case-4711": "2026-02"}, key=b"another" * 5) == {"case-4711": "2026-02"}
    assert spans_of(path, {"case-4711": "2026-05"}) == {"case-4711": "2026-01"}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4096])


def overwrite(path: Path) -> None:
    path.write_bytes(b"not a database")


def edit(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE first_spans SET span = '2025-07' WHERE span = '2026-01'")


def forget_a_span(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM first_spans WHERE span = '2026-01'")


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, overwrite, edit, forget_a_span, empty])
def test_a_damaged_index_is_refused(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "index.sqlite"
    spans_of(path, {f"r{n}": f"2026-0{1 + n % 9}" for n in range(500)})
    damage(path)
    with pytest.raises(LedgerError, match="restore it from a backup"):
        spans_of(path, {"r1": "2026-01"})


def test_an_index_that_is_not_there_has_no_identity(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="found none"):
        index_identity(tmp_path / "index.sqlite")


def test_what_was_noted_outlives_a_kill_before_the_claim(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    code = (
        "import os, sys, pathlib, numpy; from clients.index import first_spans, record_digests;"
        f"first_spans(pathlib.Path(sys.argv[1]), record_digests(['a'], {KEY!r}), numpy.array(['2026-01']));"
        "os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(path)], check=False, cwd=os.getcwd())
    assert ended.returncode == -9
    assert spans_of(path, {"a": "2026-02"}) == {"a": "2026-01"}


# --- at a node -------------------------------------------------------------------------------

HEADER = "record_id,age,town,ill,Received"


@pytest.fixture
def node(make_node: Callable[..., Node]) -> Node:
    made = make_node()
    export(made, {})
    return made


@pytest.fixture
def terms(make_terms: MakeTerms) -> Callable[..., RunTerms]:
    def make(*spans: str, **time: Any) -> RunTerms:
        schema = make_terms().data_schema.model_dump() | {"time": {"column": "received", **time}}
        return make_terms(data_schema=schema, spans=spans)

    return make


def export(node: Node, amended: dict[int, str]) -> None:
    dates = {n: amended.get(n, f"2026-0{1 + n % 2}-15") for n in range(20)}
    rows = [f"r{n},{20 + n},ulm,{'y' if n % 3 else 'n'},{date}" for n, date in dates.items()]
    node.source.write_text("\n".join([HEADER, *rows]) + "\n")


def ages(node: Node, terms: RunTerms) -> set[str]:
    return set(node.shard(terms).frame["age"])


def test_an_amended_record_is_never_charged_to_two_blocks(
    node: Node, terms: Callable[..., RunTerms], offer: Offer
) -> None:
    january, february = terms("2026-01"), terms("2026-02")
    handlers.claim(node, offer(january))
    assert "20" in ages(node, january)
    export(node, {0: "2026-02-20"})
    assert "20" not in ages(node, february)
    assert "20" in ages(node, january)


def test_without_the_index_an_amended_record_is_read_for_two_blocks(
    node: Node, terms: Callable[..., RunTerms], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted bug: dates of now decide."""
    monkeypatch.setattr("clients.records.first_spans", lambda path, records, spans: spans)
    assert "20" in ages(node, terms("2026-01"))
    export(node, {0: "2026-02-20"})
    assert "20" in ages(node, terms("2026-02"))


def test_commitments_follow_first_spans(
    node: Node, terms: Callable[..., RunTerms], survey: Callable[..., Request]
) -> None:
    """A moved date changes what is committed to of its first span, and nothing of the other."""
    both = terms("2026-01", "2026-02")
    before = handlers.ingest(node, survey(both)).values["spans"]
    export(node, {0: "2026-02-20"})
    after = handlers.ingest(node, survey(both)).values["spans"]
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_a_lost_index_is_not_begun_afresh(node: Node, terms: Callable[..., RunTerms], offer: Offer) -> None:
    handlers.claim(node, offer(terms("2026-01"), "run-1"))
    [path] = node.index_directory.glob("*.sqlite")
    path.unlink()
    export(node, {0: "2026-02-20"})
    with pytest.raises(LedgerError, match="keep the first settings"):
        handlers.claim(node, offer(terms("2026-02"), "run-2"))
    with Ledger(node.ledger) as ledger:
        assert {spending.block.span for spending in ledger.spending()} == {"2026-01"}


def test_a_damaged_index_stops_the_node_and_tells_only_the_owner_where(
    node: Node, terms: Callable[..., RunTerms], offer: Offer, caplog: pytest.LogCaptureFixture
) -> None:
    handlers.claim(node, offer(terms("2026-01"), "run-1"))
    [path] = node.index_directory.glob("*.sqlite")
    edit(path)
    export(node, {0: "2026-02-20"})
    with pytest.raises(LedgerError, match="own log says why") as caught:
        handlers.claim(node, offer(terms("2026-01"), "run-2"))
    assert str(path.parent) not in str(caught.value)
    assert "other contents" in caplog.text


def test_another_window_has_an_index_of_its_own(node: Node, terms: Callable[..., RunTerms]) -> None:
    """What a proposal that nobody claims was read by decides nothing for others."""
    assert len(ages(node, terms("2026", window="year"))) == 20
    assert len(ages(node, terms("2026-01"))) == 10


def test_without_a_key_there_is_no_index(node: Node, terms: Callable[..., RunTerms]) -> None:
    keyless = terms("2026-01")
    schema = keyless.data_schema.model_copy(update={"key": None})
    node.shard(keyless.model_copy(update={"data_schema": schema}))
    assert not node.index_directory.exists()


def test_digests_that_end_in_zero_bytes_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy drops zeros at the end of a text when it shows one, not when it compares."""
    known = index._Known.of({"2026-01": b"a" * 15 + b"\0", "2026-02": b"a" * 14 + b"\0\1"})
    wanted = np.frombuffer(b"a" * 14 + b"\0\1" + b"a" * 15 + b"\0" + b"a" * 14 + b"\0\0", "S16")
    assert known.find(wanted).tolist() == [0, 1, -1]
