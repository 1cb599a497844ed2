"""Ingest: who takes part, and what comes back from anybody."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedpipe.errors import BudgetError, FederationError
from fedpipe.federation import Refusal, Reply
from fedpipe.federation.terms import RunTerms
from server.steps.asking import Asker
from server.steps.ingest import ingest

MakeAsker = Callable[..., Asker]


def accepting(client: str) -> Reply:
    span = {"name": "undated", "commitment": "ab" * 32}
    return Reply(client=client, values={"schema_version": "1", "spans": [span], "code": "cd" * 32})


def test_who_accepts_takes_part_and_who_refuses_is_named(make_asker: MakeAsker, tmp_path: Path) -> None:
    asker = make_asker({"ingest": [accepting("a"), accepting("b"), Refusal(client="c", reason="no")]})
    spans = ingest(directory=tmp_path, asker=asker)["spans"]
    assert spans.clients == ("a", "b")
    assert spans.refusals == {"c": "no"}
    assert spans.commitments[0].hmac_sha256 == "ab" * 32


def test_clients_are_offered_exactly_the_terms(make_asker: MakeAsker, tmp_path: Path) -> None:
    asker = make_asker({"ingest": [accepting("a")]})
    ingest(directory=tmp_path, asker=asker)
    [request] = asker.clients.requests  # type: ignore[attr-defined]
    assert (request.run_id, request.step) == ("run-1", "ingest")
    assert RunTerms.model_validate(request.values["terms"]) == asker.terms


def test_no_budget_anywhere_is_a_budget_error(make_asker: MakeAsker, tmp_path: Path) -> None:
    refusal = Refusal(client="a", reason="Requested: 1, remaining: 0, difference: 1.", kind="BudgetError")
    with pytest.raises(BudgetError, match="difference"):
        ingest(directory=tmp_path, asker=make_asker({"ingest": [refusal]}))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"spans": None},
        {"spans": ["undated"]},
        {"spans": [{"name": "undated"}]},
        {"spans": [{"name": "undated", "commitment": 5}], "code": "c"},
        {"spans": [{"name": "undated", "commitment": "ab"}]},
        {"spans": [{"name": "other", "commitment": "ab"}], "code": "c"},
    ],
    ids=str,
)
def test_a_client_without_an_offer_is_named_and_the_others_go_on(
    make_asker: MakeAsker, tmp_path: Path, values: dict[str, Any]
) -> None:
    asker = make_asker({"ingest": [accepting("a"), Reply(client="odd", values=values)]})
    spans = ingest(directory=tmp_path, asker=asker)["spans"]
    assert spans.clients == ("a",)
    assert "from odd" in spans.refusals["odd"]
    alone = make_asker({"ingest": [Reply(client="odd", values=values)]})
    with pytest.raises(FederationError, match="odd says: Expected"):
        ingest(directory=tmp_path / "alone", asker=alone)
