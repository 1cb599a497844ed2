"""A client against a service that really computes on shares."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpipe.encrypted.client import EncryptedClient, Predictions
from fedpipe.encrypted.tables import predict_file
from fedpipe.encrypted.transform import read_transform
from fedpipe.encrypted.wire import Pair, decode_pair
from fedpipe.errors import EncryptedError
from tests.unit.encrypted.service import Service, hang

TRANSFORM = {
    "version": 1,
    "features": [
        {"type": "numeric", "column": "age", "lower": 0, "upper": 100, "center": 50, "scale": 25},
        {"type": "vocabulary", "column": "state", "words": ["ca", "ny"]},
    ],
    "missing_tokens": [""],
}
CARD: dict[str, Any] = {
    "model": "illness",
    "version": 3,
    "certificate": "c" * 64,
    "privacy": "private",
    "transform": TRANSFORM,
    "input_width": 4,
    "num_outputs": 1,
    "activation": "sigmoid",
    "class_names": ["no", "yes"],
    "columns": [
        {"name": "age", "aliases": ["Age in years"], "optional": False},
        {"name": "state", "aliases": [], "optional": True},
    ],
    "fixed_point": {"modulus_bits": 64, "fractional_bits": 16},
    "limits": {"max_rows": 4, "max_magnitude": 2.1, "max_output": 16.0, "deadline_seconds": 5.0},
    "operator_sees_rows": True,
    "threat_model": "Two parties that collude see your rows.",
}
WEIGHTS = np.array([[1], [2], [-1], [0]])
ROWS: list[dict[str, object]] = [
    {"age": age, "state": state} for age in (0, 61, 99.5, None) for state in ("ca", "xx")
]
Start = Callable[..., Service]


@pytest.fixture
def start() -> Iterator[Start]:
    services: list[Service] = []

    def run(**changes: Any) -> Service:
        services.append(
            Service(**({"card": dict(CARD), "weights": WEIGHTS, "bias": np.array([[0]])} | changes))
        )
        return services[-1]

    yield run
    for service in services:
        service.close()


def ask(service: Service, rows: Any = ROWS, **options: Any) -> Predictions:
    with EncryptedClient(service.url, **options) as client:
        return client.predict(rows)


def expected() -> Any:
    cells = {name: ["" if row[name] is None else str(row[name]) for row in ROWS] for name in ("age", "state")}
    logits = (read_transform(TRANSFORM).encode(cells) @ WEIGHTS)[:, 0]
    return 1 / (1 + np.exp(-logits))


def test_probabilities_are_those_of_the_plain_model(start: Start) -> None:
    answer = ask(start())
    np.testing.assert_allclose(answer.probabilities[:, 1], expected(), atol=1e-4)
    np.testing.assert_allclose(answer.probabilities.sum(axis=1), 1)
    assert answer.labels == tuple("yes" if p >= 0.5 else "no" for p in expected())


def test_answer_names_version_certificate_and_what_the_operator_sees(start: Start) -> None:
    answer = ask(start())
    assert (answer.model, answer.version, answer.certificate) == ("illness", 3, "c" * 64)
    assert answer.privacy == "private"
    assert answer.operator_sees_rows


def test_several_classes_get_a_softmax(start: Start) -> None:
    card = {**CARD, "num_outputs": 3, "activation": "softmax", "class_names": ["a", "b", "c"]}
    weights = np.arange(12).reshape(4, 3) % 5
    answer = ask(start(card=card, weights=weights, bias=np.zeros((1, 3), dtype=np.int64)))
    assert answer.probabilities.shape == (8, 3)
    np.testing.assert_allclose(answer.probabilities.sum(axis=1), 1)
    assert answer.labels == tuple("abc"[index] for index in answer.probabilities.argmax(axis=1))


def test_no_rows_get_no_answers(start: Start) -> None:
    service = start()
    assert ask(service, []).probabilities.shape == (0, 2)
    assert not service.tickets


def test_no_party_sees_a_row_and_the_same_row_looks_different_each_time(start: Start) -> None:
    service = start()
    ask(service, [{"age": 61}])
    ask(service, [{"age": 61}])
    pairs = [[decode_pair(body, (1, 4)) for body in bodies] for bodies in service.seen]
    held = [share.tobytes() for party in pairs for pair in party for share in pair]
    assert len(set(held)) == 6  # three shares for each request, each at two parties
    row = (read_transform(TRANSFORM).encode({"age": ["61"], "state": [""]}) * 2**16).round().astype(np.int64)
    for party in pairs:
        for first, second in party:
            assert not (np.isin(row, [first, second, first + second])).any()


def test_key_goes_to_the_front_end_alone(start: Start) -> None:
    service = start(key="secret")  # its parties refuse whoever shows a key
    assert len(ask(service, key="secret").probabilities) == 8
    with pytest.raises(EncryptedError, match="401") as refused:
        ask(service, key="wrong-key")
    assert "wrong-key" not in str(refused.value)


def test_party_that_disagrees_is_found(start: Start) -> None:
    def lie(index: int, pair: Pair) -> Pair:
        return pair[0] + (index == 1), pair[1]

    with pytest.raises(EncryptedError, match="parties 0 and 1"):
        ask(start(faults=[lie]))


def test_logits_that_the_model_cannot_have_are_refused(start: Start) -> None:
    with pytest.raises(EncryptedError, match="larger ones"):
        ask(start(bias=np.array([[17 << 16]])))


def test_party_that_hangs_meets_the_deadline(start: Start) -> None:
    with pytest.raises(EncryptedError, match="Expected an answer of http"):
        ask(start(faults=[hang]), timeout_seconds=0.5)


def test_passing_refusal_is_tried_again_with_fresh_shares(start: Start) -> None:
    service = start(refusals=[(503, b'{"error": "Expected a version, found none: wait."}')])
    assert len(ask(service).probabilities) == 8
    service.refusals = [(503, b'{"error": "Expected a version, found none: wait."}')] * 9
    with pytest.raises(EncryptedError, match="says: Expected a version, found none: wait"):
        ask(service)
    assert len(service.refusals) == 6


def test_service_that_says_when_to_come_back_is_waited_for(start: Start) -> None:
    service = start(refusals=[(503, b'{"error": "come back"}')] * 7)
    assert len(ask(service).probabilities) == 8


def test_refusal_for_good_is_not_tried_again(start: Start) -> None:
    service = start(refusals=[(400, b"\x1b[31m no json"), (400, b"")])
    with pytest.raises(EncryptedError, match="says: nothing"):
        ask(service)
    assert len(service.refusals) == 1


def test_new_version_is_encoded_and_asked_anew(start: Start) -> None:
    service = start()
    with EncryptedClient(service.url) as client:
        client.predict(ROWS)
        service.card.update(version=4, transform={**TRANSFORM, "missing_tokens": ["xx", ""]})
        assert client.predict(ROWS).version == 4


def test_pinned_version_and_certificate_are_held(start: Start) -> None:
    service = start()
    with EncryptedClient(service.url, version=3, certificate="c" * 64) as client:
        client.predict(ROWS)
        service.card.update(version=4)
        with pytest.raises(EncryptedError, match="409"):
            client.predict(ROWS)
    for pin in ({"version": 3}, {"certificate": "d" * 64}):
        with pytest.raises(EncryptedError, match="ask the operator"):
            ask(service, **pin)


@pytest.mark.parametrize(
    "changes",
    [
        {"certificate": "d" * 64},
        {"rows": 3},
        {"version": 9},
        {"request_id": "../../v1/model"},
        {"parties": []},
        {"parties": [{"index": i, "url": "http://127.0.0.1:1"} for i in range(3)]},
        {"parties": [{"index": i, "url": f"http://party-{i}.example"} for i in range(3)]},
    ],
)
def test_ticket_for_something_else_is_refused_before_a_share_leaves(
    start: Start, changes: dict[str, Any]
) -> None:
    service = start(changes=changes)
    with pytest.raises(EncryptedError, match="Expected"):
        ask(service)
    assert service.seen == [[], [], []]


@pytest.mark.parametrize(
    "changes",
    [
        {"fixed_point": {"modulus_bits": 64, "fractional_bits": 20}},
        {"activation": "softmax"},
        {"class_names": ["no"]},
        {"input_width": 5},
        {"limits": {}},
        {"columns": []},
        {"operator_sees_rows": "no"},
    ],
)
def test_card_that_makes_no_sense_is_refused(start: Start, changes: dict[str, Any]) -> None:
    with pytest.raises(EncryptedError, match="Expected"):
        ask(start(card={**CARD, **changes}))


@pytest.mark.parametrize("value", [np.nan, np.inf, 2.2, -3])
def test_encoded_input_out_of_range_is_refused(start: Start, value: float) -> None:
    service = start()
    with EncryptedClient(service.url) as client:
        good = client.predict_encoded([[0.5, 1, 0, 0]])
        assert good.probabilities.shape == (1, 2)
        with pytest.raises(EncryptedError, match="input 1 of row 2"):
            client.predict_encoded([[0.5, 1, 0, 0], [value, 1, 0, 0]])


@pytest.mark.parametrize("url", ["http://predictions.example", "ftp://127.0.0.1", "127.0.0.1:80", "https://"])
def test_address_without_tls_is_refused_off_this_machine(url: str) -> None:
    with pytest.raises(EncryptedError, match="https://HOST"):
        EncryptedClient(url)


def test_service_that_is_not_there_is_one_line() -> None:
    with (
        pytest.raises(EncryptedError, match="Expected an answer of http") as refused,
        EncryptedClient("http://127.0.0.1:1") as client,
    ):
        client.predict(ROWS)
    assert "\n" not in str(refused.value)


def test_threads_may_share_a_client(start: Start) -> None:
    with EncryptedClient(start().url) as client, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: client.predict(ROWS).probabilities[:, 1], range(8)))
    np.testing.assert_allclose(answers, np.tile(expected(), (8, 1)), atol=1e-4)


def test_closed_client_leaves_no_thread(start: Start) -> None:
    before = threading.active_count()
    service = start()
    client = EncryptedClient(service.url)
    client.predict(ROWS)
    client.close()
    client.close()
    assert not any(thread.name == "encrypted" for thread in threading.enumerate())
    assert before >= 1


def test_nothing_of_the_rows_is_logged(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    ask(start(), [{"age": "77.125", "state": "ny"}])
    assert "77.125" not in caplog.text


def test_file_of_rows_becomes_a_file_of_predictions(start: Start, tmp_path: Path) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("\ufeffname,Age in Years,state\n\n" + "".join(f'"a\nb",{age},ca\n' for age in range(9)))
    with EncryptedClient(start().url) as client:
        assert predict_file(client, source, target) == 9
    lines = target.read_text().splitlines()
    assert lines[0] == "row,probability_no,probability_yes,prediction,model,version"
    assert len(lines) == 10
    assert lines[1].startswith("1,0.5")
    assert lines[1].endswith(",yes,illness,3")
    assert target.stat().st_mode & 0o077 == 0


def test_fields_may_be_separated_as_spreadsheets_do_where_a_comma_is_in_decimals(
    start: Start, tmp_path: Path
) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("name;Age in Years;state\nRoe, Jane;7;ca\n")
    with EncryptedClient(start().url) as client:
        assert predict_file(client, source, target) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "header and rows in in.csv"),
        ("state\nca\n", "column 'age' in in.csv"),
        ("age,Age\n1,2\n", "one column 'age' in in.csv"),
        ('age,state\n"1\n",ca\n2\n', "in.csv line 4, found 1"),
        ("age,state\n1,ca\n\ninf,ca\n", "column 'age' of in.csv line 4"),
        ('age,state\n1,"ca\n', "in the record that starts in line 2"),
    ],
)
def test_file_that_does_not_fit_is_told_by_line_and_column(
    start: Start, tmp_path: Path, text: str, message: str
) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text(text)
    target.write_text("as before")
    with EncryptedClient(start().url) as client, pytest.raises(EncryptedError) as refused:
        predict_file(client, source, target)
    assert message in str(refused.value)
    assert target.read_text() == "as before"
    assert {path.name for path in tmp_path.iterdir()} == {"in.csv", "out.csv"}
