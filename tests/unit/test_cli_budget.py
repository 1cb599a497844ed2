"""`fedpipe budget`: what it prints, and how it ends."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedpipe.cli import app
from fedpipe.errors import LedgerError
from fedpipe.ledger import Ledger, SignedHead
from fedpipe.signing import read_key


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as opened:
        opened.witness("bob", SignedHead.sign(read_key(tmp_path / "ledger.sqlite.key"), 3, "a" * 64))
    return path


def check(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["budget", "check", *map(str, arguments)])
    return result.exit_code, result.output


def test_a_sound_ledger_is_one_line(ledger: Path) -> None:
    assert check("--ledger", ledger) == (0, f"{ledger}: 2 entries, all in order\n")
    assert check("--workspace", ledger.parent) == (0, f"{ledger}: 2 entries, all in order\n")


def test_every_finding_is_a_line_and_the_exit_code_is_2(ledger: Path) -> None:
    with closing(sqlite3.connect(ledger)) as connection, connection:
        connection.execute("UPDATE entries SET made_at = 'x' WHERE position = 1")
        connection.execute("DELETE FROM witnessed")
    code, output = check("--ledger", ledger)
    assert code == 2
    assert output.splitlines() == ["entry 1: was edited after it was made", "witnessed bob/3: missing"]


def test_a_head_that_somebody_keeps_is_looked_for(ledger: Path, tmp_path: Path) -> None:
    with Ledger(ledger) as opened:
        head = opened.head()
    kept = tmp_path / "head.json"
    kept.write_text(head.model_dump_json())
    assert check("--ledger", ledger, "--head", kept)[0] == 0
    later = SignedHead.sign(read_key(Path(f"{ledger}.key")), 9, "a" * 64)
    kept.write_text(later.model_dump_json())
    assert check("--ledger", ledger, "--head", kept) == (
        2,
        "entry 9: was signed with another content, or is lost\n",
    )


def test_every_head_that_a_witness_keeps_is_looked_for(ledger: Path, tmp_path: Path) -> None:
    witness = tmp_path / "other" / "witness.sqlite"
    with Ledger(witness) as other, Ledger(ledger) as opened:
        assert check("--ledger", ledger, "--witness", witness) == (
            2,
            f"{witness} has never been shown a head of this ledger\n",
        )
        other.witness("ada", opened.head())
        assert check("--ledger", ledger, "--witness", witness)[0] == 0
        other.witness("ada", SignedHead.sign(opened.key, 7, "b" * 64))
        opened.witness("bob", SignedHead.sign(opened.key, 4, "c" * 64))
        other.witness("ada", SignedHead.sign(opened.key, 8, "d" * 64))
    code, output = check("--ledger", ledger, "--witness", witness)
    assert code == 2
    assert output.splitlines() == [
        f"entry {position}: was signed with another content, or is lost (kept by {witness})"
        for position in (7, 8)
    ]


def test_a_known_gap_is_told_and_is_no_finding(ledger: Path) -> None:
    lost = SignedHead.sign(read_key(Path(f"{ledger}.key")), 9, "a" * 64)
    with Ledger(ledger) as opened, pytest.raises(Exception, match="older backup"):
        opened.meet(lost)
    code, output = check("--ledger", ledger)
    assert code == 0
    assert "gap found at" in output


def test_a_workspace_s_coordinator_is_a_witness_of_its_ledger(ledger: Path) -> None:
    """A copy of before is found, until it was told itself: then the gap is known, and counts as spent."""
    with Ledger(ledger.parent / "witness.sqlite") as coordinator:
        assert check("--workspace", ledger.parent)[0] == 0
        later = SignedHead.sign(read_key(Path(f"{ledger}.key")), 9, "a" * 64)
        coordinator.witness("bob", later)
    code, output = check("--workspace", ledger.parent)
    assert code == 2
    assert "entry 9" in output
    assert "witness.sqlite" in output
    assert check("--ledger", ledger)[0] == 0
    with Ledger(ledger) as opened, pytest.raises(LedgerError, match="older backup"):
        opened.meet(later)
    code, output = check("--workspace", ledger.parent)
    assert code == 0
    assert "gap" in output
