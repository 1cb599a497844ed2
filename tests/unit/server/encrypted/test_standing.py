"""Which versions may be served: not the revoked, not those that cost more than was promised."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedpipe.errors import ConfigError, EncryptedError
from fedpipe.pipeline import Workspace
from server.encrypted import standing


def version(*, stated: float | None = 2.0, found: float | None = 2.0) -> Any:
    certificate = SimpleNamespace(recompute_epsilon=lambda: found, model_dump=lambda mode: {"of": "heart"})
    return SimpleNamespace(
        name="heart",
        version=3,
        certificate=certificate,
        privacy=SimpleNamespace(epsilon=stated, status="private"),
        definition=SimpleNamespace(num_features=13, settings=SimpleNamespace(type="mlp")),
    )


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    Workspace(tmp_path / "w")
    monkeypatch.setattr(standing, "find_model", lambda root, reference: version())
    return tmp_path / "w"


def test_registered_version_is_served(root: Path) -> None:
    found = standing.served_version(root, "heart", None)
    assert (found.name, found.version, found.input_width) == ("heart", 3, 13)


def test_revoked_version_is_refused_with_its_reason(root: Path) -> None:
    standing.revoke(root, "heart:3", "a hospital withdrew")
    with pytest.raises(EncryptedError, match="revoked: a hospital withdrew"):
        standing.served_version(root, "heart", 3)


def test_revocation_wants_a_reason(root: Path) -> None:
    with pytest.raises(ConfigError, match="--reason"):
        standing.revoke(root, "heart:3", " ")


def test_damaged_list_of_revocations_serves_nothing(root: Path) -> None:
    standing.revoke(root, "heart:3", "test")
    (root / "revoked-models.json").write_text("[")
    with pytest.raises(EncryptedError, match="damaged"):
        standing.served_version(root, "heart", 3)


def test_other_versions_stay_in_force(root: Path) -> None:
    (root / "revoked-models.json").write_text(json.dumps([{"model": "heart", "version": 2, "reason": "old"}]))
    assert standing.served_version(root, "heart", 3).version == 3


@pytest.mark.parametrize("found", [2.1, None])
def test_certificate_that_costs_more_than_it_says_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, found: float | None
) -> None:
    monkeypatch.setattr(standing, "find_model", lambda root, reference: version(found=found))
    with pytest.raises(EncryptedError, match="found more"):
        standing.served_version(root, "heart", None)


def test_version_whose_blocks_are_over_budget_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spending = [SimpleNamespace(held=1.1, budget=1.0), SimpleNamespace(held=1.0, budget=1.0)]
    ledger = SimpleNamespace(spending=lambda: spending)
    monkeypatch.setattr(standing, "Ledger", lambda path: nullcontext(ledger))
    (root / "ledger.sqlite").touch()
    with pytest.raises(EncryptedError, match="found 1 over"):
        standing.served_version(root, "heart", None)
