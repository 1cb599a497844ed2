"""What a full check finds: edits that an opening cannot see, damaged files, forgers, restored backups."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fedpipe.errors import LedgerError
from fedpipe.files import canonical_json, sha256
from fedpipe.ledger import Ledger, LedgerStore, SignedHead
from fedpipe.ledger.check import check_ledger
from fedpipe.ledger.entries import entry_digest
from fedpipe.signing import hold_key

if TYPE_CHECKING:
    from conftest import Desk


@pytest.fixture
def used(desk: Desk) -> Desk:
    """A ledger with a closed claim, an open one, releases and a witnessed head."""
    desk.reserve("r1")
    for step, server_round in (("statistics", 0), ("train", 1), ("train", 2)):
        desk.commit("r1", step, server_round)
    desk.close("r1")
    desk.reserve("r2")
    desk.commit("r2", "train", 1)
    with desk.open() as ledger:
        ledger.witness("bob", SignedHead.sign(hold_key(desk.path.parent / "bob.key"), 3, "a" * 64))
    return desk


def findings(desk: Desk, *heads: SignedHead) -> tuple[str, ...]:
    return check_ledger(LedgerStore.at(desk.path), heads).findings


def edit(desk: Desk, *statements: str) -> None:
    with closing(sqlite3.connect(desk.path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def test_an_honest_ledger_has_no_findings(used: Desk) -> None:
    assert findings(used) == ()
    assert check_ledger(LedgerStore.at(used.path)).num_entries == len(used.contents()["entries"])


def test_an_entry_is_digested_as_canonical_json(used: Desk) -> None:
    """A stranger needs neither this package nor its order of columns."""
    with used.open() as ledger:
        for entry in ledger.entries():
            whole = {
                "body": json.loads(entry.text),
                "kind": entry.kind,
                "made_at": entry.made_at,
                "position": entry.position,
                "previous": entry.previous,
                "totals": json.loads(entry.totals),
            }
            assert entry.digest == sha256(canonical_json(whole).encode())


@pytest.mark.parametrize(
    ("statement", "finding"),
    [
        (
            "UPDATE entries SET text = replace(text, '\"planned\":3', '\"planned\":2') WHERE position = 4",
            "entry 4",
        ),
        ("UPDATE entries SET made_at = '2020-01-01' WHERE position = 5", "entry 5: was edited"),
        ("DELETE FROM entries WHERE position = 6", "entry 6 is missing"),
        ("DELETE FROM entries WHERE position > 3", "claims r1/ada: not in the entries"),
        ("DELETE FROM entries", "no entries"),
        (
            "UPDATE blocks SET renyi_budget = renyi_budget * 2",
            "blocks 1: renyi_budget not as the entries say",
        ),
        ("UPDATE blocks SET span = '2024-01'", "blocks 1: span not as the entries say"),
        ("UPDATE reservations SET divergence = divergence / 2", "reservations 1/1: divergence"),
        ("DELETE FROM reservations WHERE block = 1", "reservations 1/1: missing"),
        ("UPDATE queries SET committed = 0", "queries 1: committed"),
        ("UPDATE claims SET state = 'closed'", "claims r2/ada: state"),
        ("UPDATE claims SET terms = '{}'", "claims r1/ada: terms"),
        ("DELETE FROM releases WHERE server_round = 2", "releases r1/ada/train/2/0: missing"),
        ("UPDATE divisions SET division = 'by name'", "divisions ada: division"),
        ("UPDATE replies SET reply = x'00'", "replies r2/ada/train/1/0: is not what was committed"),
        ("UPDATE witnessed SET digest = 'b'", "witnessed bob/3: digest"),
        ("INSERT INTO gaps VALUES (99, 1, 'x', 'y')", "gaps 99: not in the entries"),
    ],
)
def test_every_edit_is_named(used: Desk, statement: str, finding: str) -> None:
    edit(used, "PRAGMA foreign_keys=OFF", statement)
    assert any(finding in each for each in findings(used)), findings(used)


def test_an_edit_while_the_ledger_is_open_is_not_signed_along(used: Desk) -> None:
    with used.open() as ledger:
        edit(used, "UPDATE queries SET committed = committed - 1 WHERE committed > 0")
        ledger.witness("carol", SignedHead.sign(hold_key(used.path.parent / "carol.key"), 2, "b" * 64))
    with pytest.raises(LedgerError, match="totals"):
        used.open()


def test_reordered_entries_are_found(used: Desk) -> None:
    edit(
        used,
        "UPDATE entries SET position = 99 WHERE position = 5",
        "UPDATE entries SET position = 5 WHERE position = 6",
        "UPDATE entries SET position = 6 WHERE position = 99",
    )
    found = findings(used)
    assert "entry 5: was edited after it was made" in found
    assert "entry 6: was edited after it was made" in found


def test_an_editor_who_mends_the_digests_lacks_the_key(used: Desk) -> None:
    """As one who knows the format, and edits chain and tables to agree."""
    with closing(sqlite3.connect(used.path)) as connection, connection:
        connection.row_factory = sqlite3.Row
        previous = None
        for row in connection.execute("SELECT * FROM entries ORDER BY position").fetchall():
            content = {
                name: row[name] for name in ("position", "kind", "text", "totals", "made_at", "previous")
            }
            if row["position"] >= 5:
                content["made_at"] = "2020-01-01T00:00:00.000+00:00"
                content["previous"] = previous or content["previous"]
                digest = entry_digest(**content)
                connection.execute(
                    "UPDATE entries SET made_at = ?, previous = ?, digest = ? WHERE position = ?",
                    (content["made_at"], content["previous"], digest, row["position"]),
                )
                previous = digest
    assert "entry 5: is not signed by the ledger's key" in findings(used)


def test_a_lost_tail_is_found_by_a_head_that_others_keep(used: Desk, tmp_path: Path) -> None:
    shutil.copytree(used.path.parent, tmp_path / "backup")
    used.commit("r2", "train", 2)
    with used.open() as ledger:
        head = ledger.head()
    assert findings(used, head) == ()
    for path in used.path.parent.glob("ledger.db*"):
        path.unlink()
    shutil.copytree(tmp_path / "backup", used.path.parent, dirs_exist_ok=True)
    assert findings(used) == ()  # of itself it is an honest ledger of before
    assert findings(used, head) == (f"entry {head.position}: was signed with another content, or is lost",)
    with used.open() as ledger, pytest.raises(LedgerError, match="older backup"):
        ledger.meet(head)
    with used.open() as ledger:
        assert {each.remaining for each in ledger.spending()} == {0.0}
    assert findings(used) == ()


def test_a_ledger_that_went_on_after_a_restore_is_found_as_well(used: Desk, tmp_path: Path) -> None:
    shutil.copytree(used.path.parent, tmp_path / "backup")
    used.commit("r2", "train", 2)
    with used.open() as ledger:
        head = ledger.head()
    shutil.copytree(tmp_path / "backup", used.path.parent, dirs_exist_ok=True)
    used.commit("r2", "train", 3)
    with used.open() as ledger, pytest.raises(LedgerError, match="older backup"):
        ledger.meet(head)


def test_a_head_of_another_ledger_proves_nothing(used: Desk) -> None:
    other = SignedHead.sign(hold_key(used.path.parent / "other.key"), 99, "a" * 64)
    with used.open() as ledger:
        before = ledger.head()
        with pytest.raises(LedgerError, match="proves nothing"):
            ledger.meet(other)
        forged = before.model_copy(update={"position": 99})
        with pytest.raises(LedgerError, match="proves nothing"):
            ledger.meet(forged)
        assert ledger.head() == before
    assert len(findings(used, other)) == 1


def whole(desk: Desk) -> bytes:
    """All in one file."""
    with closing(sqlite3.connect(desk.path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return desk.path.read_bytes()


def use(desk: Desk) -> None:
    """Opens, reads and checks: what is torn may be a page that no opening reads."""
    with desk.open() as ledger:
        ledger.spending()
        ledger.head()
    if found := findings(desk):
        raise LedgerError(*found)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.2, 0.5, 0.9, 0.999])
def test_a_torn_file_is_refused_and_never_begun_again(used: Desk, kept: float) -> None:
    content = whole(used)
    used.path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(LedgerError):
        use(used)
    assert used.path.stat().st_size <= kept * len(content) + 4096


@pytest.mark.parametrize("seed", range(6))
def test_flipped_bytes_are_found_or_change_nothing(used: Desk, seed: int) -> None:
    before = used.contents()
    content = bytearray(whole(used))
    for _ in range(3):
        content[random.Random(seed).randrange(100, len(content))] ^= 0x15
    used.path.write_bytes(content)
    try:
        found = findings(used)
    except LedgerError:
        return
    assert found or used.contents() == before


def test_a_vanished_ledger_is_refused_while_its_key_is_there(used: Desk) -> None:
    for path in used.path.parent.glob("ledger.db*"):
        if path.suffix != ".key":
            path.unlink()
    with pytest.raises(LedgerError, match=r"ledger\.db\.key.*forget what was spent.*move the key away"):
        used.open()
    assert not used.path.exists()
    with pytest.raises(LedgerError, match="found none"):
        findings(used)
    assert not used.path.exists()


def test_a_vanished_key_is_not_replaced(used: Desk) -> None:
    Path(f"{used.path}.key").unlink()
    with pytest.raises(LedgerError, match="Expected a signing key"):
        used.open()
    assert not Path(f"{used.path}.key").exists()
    assert any("the key cannot be used" in finding for finding in findings(used))


def test_death_between_ledger_and_key_is_mended(desk: Desk) -> None:
    with desk.open() as ledger:
        head = ledger.head()
    Path(f"{desk.path}.key").rename(f"{desk.path}.key.new")
    with desk.open() as ledger:
        assert ledger.head() == head
    assert Path(f"{desk.path}.key").exists()


def test_death_before_the_ledger_was_there_is_no_vanished_ledger(desk: Desk) -> None:
    hold_key(Path(f"{desk.path}.key.new"))
    desk.reserve("r1")
    assert findings(desk) == ()


def test_a_url_never_shows_its_password(tmp_path: Path) -> None:
    url = "postgresql+psycopg://ada:SECRET@127.0.0.1:1/bank?password=SECRET&connect_timeout=1"
    store = LedgerStore.at(url, key=tmp_path / "bank.key")
    assert "SECRET" not in f"{store} {store!r}"
    with pytest.raises(LedgerError, match=r"postgresql\+psycopg://127\.0\.0\.1:1/bank") as error:
        Ledger(store)
    assert "SECRET" not in f"{error.value} {error.value.__cause__} {error.value.__cause__!r}"


@pytest.mark.parametrize("url", ["mysql://ada:SECRET@db/bank", "postgresql+psycopg://ada:SECRET@db:x/bank"])
def test_other_urls_are_refused_and_not_shown(tmp_path: Path, url: str) -> None:
    with pytest.raises(LedgerError, match="Expected a path or a URL") as error:
        LedgerStore.at(url, key=tmp_path / "bank.key")
    assert "SECRET" not in f"{error.value} {error.value.__cause__}"


def test_a_database_without_a_key_is_refused() -> None:
    with pytest.raises(LedgerError, match="key"):
        LedgerStore.at("postgresql+psycopg://db/bank")


def test_the_script_in_the_documentation_checks_a_chain(used: Desk) -> None:
    """It needs nothing of this package."""
    page = (Path(__file__).parents[3] / "docs" / "ledger.md").read_text()
    script = page.partition("```python\n")[2].partition("```")[0]
    assert "fedpipe" not in script.replace("fedpipe ledger head", "")

    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", script, str(used.path)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    with used.open() as ledger:
        head = ledger.head()
    assert run().stdout == f"{head.position} entries signed by {head.ledger} end in {head.digest}\n"
    edit(used, "UPDATE entries SET made_at = 'x' WHERE position = 3")
    assert run().returncode != 0
