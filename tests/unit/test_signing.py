"""Keys that are made once, and signatures that hold for one statement."""

from __future__ import annotations

import stat
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from fedpipe.errors import LedgerError
from fedpipe.signing import hold_key, is_signed, read_key

STATEMENT = {"kind": "test", "values": [1, 0.1, None, "ä"]}


def _public(path: Path) -> str:
    return hold_key(path).public


def test_a_key_is_made_once_and_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "key.pem"
    key = hold_key(path)
    assert hold_key(path).public == read_key(path).public == key.public
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["key.pem"]


def test_processes_that_start_together_hold_one_key(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4) as pool:
        assert len(set(pool.map(_public, [tmp_path / "key.pem"] * 8))) == 1


def test_a_signature_holds_for_its_statement_and_key(tmp_path: Path) -> None:
    key, other = hold_key(tmp_path / "a.pem"), hold_key(tmp_path / "b.pem")
    signature = key.sign(STATEMENT)
    assert is_signed(dict(reversed(STATEMENT.items())), signature=signature, public=key.public)
    assert not is_signed(STATEMENT | {"kind": "x"}, signature=signature, public=key.public)
    assert not is_signed(STATEMENT, signature=signature, public=other.public)


@pytest.mark.parametrize("bad", ["", "no base64 ?", "AAAA"])
def test_malformed_signatures_and_keys_sign_nothing(tmp_path: Path, bad: str) -> None:
    key = hold_key(tmp_path / "a.pem")
    assert not is_signed(STATEMENT, signature=bad, public=key.public)
    assert not is_signed(STATEMENT, signature=key.sign(STATEMENT), public=bad)


def test_a_key_never_shows_itself(tmp_path: Path) -> None:
    key = hold_key(tmp_path / "a.pem")
    assert repr(key) == "SigningKey()"


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    hold_key(path)
    path.chmod(0o640)
    with pytest.raises(LedgerError, match="chmod 600"):
        hold_key(path)


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_damaged_key_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(LedgerError, match="restore it"):
        hold_key(path)
    assert path.read_bytes() == content
