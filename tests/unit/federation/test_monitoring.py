import sqlite3
from contextlib import AbstractContextManager
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry, Gauge

from fedpipe.errors import ConfigError
from fedpipe.federation.monitoring import monitored
from tests.system.federation import free_port


def get(address: tuple[str, int], path: str) -> tuple[int, str]:
    try:
        with urlopen(f"http://{address[0]}:{address[1]}{path}", timeout=10) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def test_figures_and_health_are_served_and_nothing_else() -> None:
    registry, state = CollectorRegistry(), {"ready": False}
    Gauge("apples", "In the basket.", registry=registry).set(3)
    with monitored(
        f"127.0.0.1:{free_port()}", registry, is_healthy=lambda: True, is_ready=lambda: state["ready"]
    ) as address:
        assert "apples 3.0" in get(address, "/metrics")[1]
        assert get(address, "/healthz") == (200, "ok\n")
        assert get(address, "/readyz")[0] == 503
        state["ready"] = True
        assert get(address, "/readyz") == (200, "ok\n")
        assert get(address, "/log.jsonl")[0] == 404


@pytest.mark.parametrize("address", ["0.0.0.0:9100", "192.0.2.1:9100", "fed.example.org:9100", "[::]:9100"])
def test_an_address_that_others_reach_is_refused(address: str) -> None:
    with (
        pytest.raises(ConfigError, match="on loopback"),
        monitored(address, CollectorRegistry(), is_healthy=lambda: True, is_ready=lambda: True),
    ):
        pass


def test_a_port_that_is_taken_is_an_error_with_a_remedy() -> None:
    def served(address: str) -> AbstractContextManager[tuple[str, int]]:
        return monitored(address, CollectorRegistry(), is_healthy=lambda: True, is_ready=lambda: True)

    with (
        served(f"127.0.0.1:{free_port()}") as (host, port),
        pytest.raises(ConfigError, match="Choose another"),
        served(f"{host}:{port}"),
    ):
        pass


def test_figures_that_cannot_be_read_are_one_line_of_the_log(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail() -> bool:
        raise sqlite3.OperationalError("database is locked")

    with monitored(
        f"127.0.0.1:{free_port()}", CollectorRegistry(), is_healthy=lambda: True, is_ready=fail
    ) as address:
        assert get(address, "/readyz")[0] == 500
        assert get(address, "/healthz")[0] == 200

    assert caplog.messages == ["The figures cannot be shown (OperationalError)."]
    assert "Traceback" not in capfd.readouterr().err


def test_nothing_is_served_unless_asked_for() -> None:
    with monitored("", CollectorRegistry(), is_healthy=lambda: True, is_ready=lambda: True) as address:
        assert address == ("", 0)
