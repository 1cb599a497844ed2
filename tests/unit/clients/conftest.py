"""A data owner with twelve records."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from clients.node import Node
from clients.policy import NodePolicy
from fedpipe.federation import Request
from fedpipe.federation.enrolment import Invitation
from fedpipe.federation.terms import RunTerms

STEPS = ("statistics", "preprocess", "train", "analyze")
HEADER = "record_id,age,town,ill"
RECORDS = [f"r{n},{20 + n},{'ulm' if n % 2 else 'trier'},{'y' if n % 3 else 'n'}" for n in range(12)]


@pytest.fixture
def make_node(tmp_path: Path) -> Callable[..., Node]:
    """Returns a node with `lines` as its records, and `policy` over a policy that allows tests."""

    def make(name: str = "client-1", lines: list[str] | None = None, **policy: Any) -> Node:
        source, key = tmp_path / f"{name}.csv", tmp_path / f"{name}.key"
        source.write_text("\n".join([HEADER, *(RECORDS if lines is None else lines)]) + "\n")
        key.write_bytes(name.encode().ljust(32, b"k"))
        settings: dict[str, Any] = {"lifetime_runs": 3, "seed": 5}
        config = {
            "client": name,
            "source": str(source),
            "key": str(key),
            "ledger": str(tmp_path / "ledger.sqlite"),
            "policy": json.dumps(NodePolicy.model_validate(settings | policy).model_dump()),
        }
        return Node.from_config(config)

    return make


@pytest.fixture
def offer() -> Callable[..., Request]:
    """Returns the request to claim what some steps of a run may cost; by default all."""

    def make(terms: RunTerms, run_id: str = "run-1", steps: Sequence[str] = STEPS) -> Request:
        values = {"terms": terms.model_dump(mode="json"), "steps": list(steps)}
        return Request(run_id=run_id, step="claim", values=values)

    return make


@pytest.fixture
def survey() -> Callable[..., Request]:
    """Returns the request of `ingest` for some terms."""

    def make(terms: RunTerms, run_id: str = "run-1") -> Request:
        return Request(run_id=run_id, step="ingest", values={"terms": terms.model_dump(mode="json")})

    return make


@pytest.fixture
def make_invitation() -> Callable[..., Invitation]:
    """Returns an invitation of an operator."""

    def make(federation: str = "demo") -> Invitation:
        return Invitation(
            federation=federation,
            client="first-bank",
            address="fed.example.org:9092",
            ca_certificate="CERTIFICATE",
            code="a-code-of-enough-letters",
            expires_at=dt.datetime(2026, 5, 4, tzinfo=dt.timezone.utc),
        )

    return make
