"""The order of columns and classes means something, and survives every way that terms travel."""

from __future__ import annotations

import pytest

from fedpipe.config import config_names, load_config, parse_config
from fedpipe.federation import Reply, Request
from fedpipe.federation.flower_compat import copy_over_wire
from fedpipe.federation.flower_messages import message_to_request, request_to_message
from fedpipe.federation.messages import decode_reply, encode_reply
from fedpipe.federation.terms import RunTerms
from server.planning import make_terms


@pytest.fixture(scope="module")
def terms() -> RunTerms:
    config = load_config("heart", ["privacy.enabled=false"])
    swapped = config.model_dump(mode="json", by_alias=True)
    swapped["schema"]["columns"] = dict(reversed(swapped["schema"]["columns"].items()))
    swapped["schema"]["label"]["classes"] = {"zebra": [], "ant": []}
    return make_terms(parse_config(swapped, source="test"))


def order(terms: RunTerms) -> tuple[list[str], list[str]]:
    return list(terms.data_schema.columns), list(terms.data_schema.label.classes)


def test_order_survives_the_wire(terms: RunTerms) -> None:
    request = Request(run_id="r", step="ingest", values={"terms": terms.model_dump(mode="json")})
    arrived = message_to_request(copy_over_wire(request_to_message(request, 1, 60.0)))
    assert order(RunTerms.model_validate(arrived.values["terms"])) == order(terms)
    assert arrived.digest == request.digest


def test_order_survives_the_ledger(terms: RunTerms) -> None:
    assert order(RunTerms.model_validate_json(terms.model_dump_json())) == order(terms)


def test_order_survives_a_stored_reply() -> None:
    stored = decode_reply(encode_reply(Reply(client="a", values={"z": 1, "a": 2})))
    assert list(stored.values) == ["z", "a"]


def test_order_changes_the_digest(terms: RunTerms) -> None:
    dump = terms.model_dump(mode="json")
    dump["data_schema"]["columns"] = dict(reversed(dump["data_schema"]["columns"].items()))
    assert RunTerms.model_validate(dump).digest != terms.digest


@pytest.mark.parametrize("name", config_names())
def test_every_configuration_keeps_its_order_in_a_stored_request(name: str) -> None:
    config = load_config(name)
    again = parse_config(config.model_dump(mode="json", by_alias=True), source="test")
    assert list(again.data_schema.columns) == list(config.data_schema.columns)
    assert again == config
