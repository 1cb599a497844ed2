"""What the front end gives, to whom and how often."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.testclient import TestClient

from fedpipe.encrypted.party import tickets
from fedpipe.errors import ConfigError, EncryptedError
from server.encrypted.front_end import FrontEnd
from server.encrypted.options import UpOptions, parse_numbers
from server.encrypted.rates import Rates
from server.encrypted.raw_rows import RawAnswer, RawRows
from server.encrypted.threat_model import threat_model
from server.encrypted.web import make_app
from server.prediction.access import KeyRing, new_key
from server.prediction.errors import ServingError

CARD = {
    "model": "heart",
    "version": 3,
    "certificate": "0" * 64,
    "privacy": "private",
    "input_width": 4,
    "num_outputs": 1,
    "limits": {"max_rows": 8, "deadline_seconds": 30.0},
    "operator_sees_rows": True,
}
SECRET = bytes(32)


class Committee:
    urls = tuple(f"http://127.0.0.1:{port}" for port in (1, 2, 3))

    def ticket(self, kind: int, number: int, seconds: float) -> str:
        return tickets.issue(SECRET, tickets.Ticket(kind, number, seconds))


@pytest.fixture
def service() -> Any:
    active = SimpleNamespace(card=CARD, committee=Committee())
    return SimpleNamespace(active=active, reason="Expected a version, found none.", describe=dict)


def open_client(service: Any, keys: KeyRing | None = None, rows_per_minute: int = 20) -> TestClient:
    return TestClient(make_app(FrontEnd(service, keys, Rates(rows_per_minute)), service))


def test_ticket_names_version_certificate_and_who_sees_rows(service: Any) -> None:
    answer = open_client(service).post("/v1/requests", json={"rows": 2, "version": 3}).json()
    assert tickets.check(SECRET, answer.pop("request_id"), now=0.0) == tickets.Ticket(tickets.ROWS, 2, 30.0)
    assert answer["certificate"] == "0" * 64
    assert answer["operator_sees_rows"] is True
    assert [party["index"] for party in answer["parties"]] == [0, 1, 2]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"rows": 0}, 400),
        ({"rows": True}, 400),
        ({"rows": "2"}, 400),
        ({}, 400),
        ({"rows": 2, "row": [1.0]}, 400),
        ({"rows": 9}, 400),
        ({"rows": 2, "version": 2}, 409),
    ],
)
def test_wrong_ticket_request_is_refused(service: Any, body: dict[str, Any], status: int) -> None:
    answer = open_client(service).post("/v1/requests", json=body)
    assert answer.status_code == status
    assert answer.json()["error"].startswith("Expected")


def test_without_an_active_version_nothing_is_served_and_the_reason_is_told(service: Any) -> None:
    service.active = None
    client = open_client(service)
    for answer in (client.get("/v1/model"), client.post("/v1/requests", json={"rows": 1})):
        assert (answer.status_code, answer.json()["error"]) == (503, service.reason)
        assert int(answer.headers["retry-after"]) > 0
    assert client.get("/readyz").status_code == 503


def test_key_is_wanted_everywhere_but_for_health(service: Any, tmp_path: Path) -> None:
    key, line = new_key("clinic")
    (tmp_path / "keys").write_text(line)
    client = open_client(service, KeyRing(tmp_path / "keys"))
    assert client.get("/healthz").status_code == 200
    for path in ("/v1/model", "/v1/status"):
        assert client.get(path).status_code == 401
        assert client.get(path, headers={"authorization": f"Bearer {key}"}).status_code == 200
    assert client.post("/v1/requests", json={"rows": 1}).status_code == 401


def test_keys_have_rates_of_their_own() -> None:
    rates = Rates(60)
    rates.take("a", 60, now=0.0)
    with pytest.raises(ServingError, match="try again in 2 s"):
        rates.take("a", 2, now=0.0)
    rates.take("b", 60, now=0.0)
    rates.take("a", 2, now=2.0)


def test_too_many_rows_a_minute_are_told_when_to_come_again(service: Any) -> None:
    client = open_client(service, rows_per_minute=8)
    codes = [client.post("/v1/requests", json={"rows": 8}).status_code for _ in range(2)]
    assert codes == [200, 429]


def test_raw_rows_are_refused_unless_asked_for(service: Any) -> None:
    body = {"instances": [{"age": 61}]}
    assert open_client(service).post("/v1/predict", json=body).status_code == 404


def test_raw_rows_want_a_key_and_answers_say_who_sees_them(service: Any, tmp_path: Path) -> None:
    async def raw(rows: RawRows, key: str | None) -> RawAnswer:
        asked.append((len(rows.instances), key))
        return RawAnswer(
            **{name: CARD[name] for name in ("model", "version", "certificate", "privacy")},
            operator_sees_rows=True,
            class_names=("no", "yes"),
            probabilities=[[0.25, 0.75]],
        )

    asked: list[tuple[int, str | None]] = []
    key, line = new_key("clinic")
    (tmp_path / "keys").write_text(line)
    front_end = FrontEnd(service, KeyRing(tmp_path / "keys"), Rates(10))
    client, body = TestClient(make_app(front_end, service, raw)), {"instances": [{"age": 61}]}
    assert client.post("/v1/predict", json=body).status_code == 401
    answer = client.post("/v1/predict", json=body, headers={"x-api-key": key}).json()
    assert (answer["operator_sees_rows"], answer["probabilities"]) == (True, [[0.25, 0.75]])
    assert asked == [(1, key)]


def test_openapi_tells_keys_refusals_and_what_each_path_is_for(service: Any) -> None:
    document = open_client(service).get("/openapi.json").json()
    assert set(document["components"]["securitySchemes"]) == {"HTTPBearer", "APIKeyHeader"}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["description"]
            assert set(operation["responses"]) == {"200", "default"}
            assert ("security" in operation) == path.startswith("/v1/")


def options(tmp_path: Path, **changes: Any) -> UpOptions:
    wanted = {"operator_sees_rows": True, "unisolated": True, **changes}
    return UpOptions(workspace=tmp_path, model="heart", home=tmp_path, **wanted)


def test_one_operator_must_admit_that_he_sees_rows(tmp_path: Path) -> None:
    with pytest.raises(EncryptedError, match="--operator-sees-rows"):
        options(tmp_path, operator_sees_rows=False).check()


def test_machine_without_namespaces_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EncryptedError, match="--unisolated"):
        options(tmp_path, unisolated=False).check()


def test_other_hosts_are_served_over_tls_and_with_keys_only(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Expected TLS and API keys"):
        options(tmp_path, host="0.0.0.0").check()


def test_threat_model_says_in_capitals_what_is_not_protected(tmp_path: Path) -> None:
    text = threat_model(options(tmp_path))
    assert "ONE OPERATOR RUNS ALL THREE PARTIES" in text
    assert "NOT ISOLATED" in text
    assert "NOT ISOLATED" not in threat_model(options(tmp_path, unisolated=False))


@pytest.mark.parametrize("text", ["a", "1,,2", "0", "-1"])
def test_numbers_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--buckets"):
        parse_numbers("--buckets", text)
