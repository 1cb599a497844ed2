"""The engine on Ray: every node keeps its place, nothing is told, and nothing stays behind."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedpipe.errors import FederationError
from fedpipe.federation import Refusal, Reply, Request
from fedpipe.federation.flower_clients import FlowerClients
from fedpipe.federation.flower_messages import message_to_request, reply_to_message, request_to_message
from fedpipe.federation.ray_actors import ray_stations
from fedpipe.federation.ray_engine import RayGrid

from flwr.app import ConfigRecord, Context, Message  # isort: skip
from flwr.clientapp import ClientApp  # isort: skip
from flwr.serverapp import Grid  # isort: skip

SECRET = "patient Jane Roe"
NODES: list[dict[str, str | int | float | bool]] = [{"client": name} for name in "fedcba"]
SECONDS = 120


def client_app() -> ClientApp:
    """Names only what a process that cannot import this module knows."""
    app = ClientApp()

    @app.query("who")
    def who(message: Message, context: Context) -> Message:
        reply = Reply(client=str(context.node_config["client"]), values={"process": os.getpid()})
        return reply_to_message(reply, message)

    @app.query("count")
    def count(message: Message, context: Context) -> Message:
        before = context.state.config_records.get("seen", ConfigRecord({"times": 0}))
        times = int(str(before["times"])) + 1
        context.state["seen"] = ConfigRecord({"times": times})
        reply = Reply(client=str(context.node_config["client"]), values={"times": times})
        return reply_to_message(reply, message)

    @app.query("log")
    def log(message: Message, context: Context) -> Message:
        try:
            raise ValueError(SECRET)
        except ValueError:
            logging.getLogger("clients.app").exception("%s could not answer", context.node_config["client"])
        return who(message, context)

    @app.query("fail")
    def fail(message: Message, context: Context) -> Message:
        raise ValueError(SECRET)

    @app.query("die")
    def die(message: Message, context: Context) -> Message:
        """Ends the process, once for each node without a mark."""
        mark = Path(str(message_to_request(message).values["mark"])) / str(context.node_config["client"])
        if not mark.exists():
            mark.touch()
            os._exit(1)
        return who(message, context)

    return app


@pytest.fixture(scope="module")
def grid() -> Iterator[RayGrid]:
    with ray_stations(client_app(), 2) as stations:
        yield RayGrid(stations, NODES)


def ask(grid: Grid, step: str, server_round: int = 0, **values: str) -> tuple[list[Reply], list[Refusal]]:
    request = Request(run_id="r", step=step, server_round=server_round, values=values)
    return FlowerClients(grid).ask(request, timeout_seconds=SECONDS)


def processes(grid: Grid, server_round: int) -> dict[str, int]:
    replies, refusals = ask(grid, "who", server_round)
    assert not refusals
    return {reply.client: reply.values["process"] for reply in replies}


def test_every_node_answers_with_its_own_configuration_from_the_same_process_each_time(grid: RayGrid) -> None:
    first = processes(grid, 1)
    assert list(first) == list("abcdef")
    assert len(set(first.values())) == 2
    assert os.getpid() not in first.values()
    assert processes(grid, 2) == first


def times_asked(grid: Grid, server_round: int) -> int:
    replies, _ = ask(grid, "count", server_round)
    [times] = {reply.values["times"] for reply in replies}
    return int(times)


def test_a_node_keeps_its_state(grid: RayGrid) -> None:
    assert times_asked(grid, 1) + 1 == times_asked(grid, 2)


def test_what_clients_log_is_logged_here_and_not_on_the_terminal(
    grid: RayGrid, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    ask(grid, "log")
    told = [record for record in caplog.records if record.name == "clients.app"]
    assert sorted(record.getMessage().splitlines()[0] for record in told) == [
        f"{name} could not answer" for name in "abcdef"
    ]
    assert all(SECRET in record.getMessage() for record in told)
    assert SECRET not in "".join(capfd.readouterr())


def test_an_exception_of_a_client_tells_the_coordinator_nothing(
    grid: RayGrid, caplog: pytest.LogCaptureFixture
) -> None:
    replies, refusals = ask(grid, "fail")
    assert not replies
    assert len(refusals) == len(NODES)
    assert SECRET not in repr(refusals) + caplog.text
    assert "A ClientApp raised ValueError." in caplog.text


def test_a_process_that_dies_is_replaced_and_asked_again(grid: RayGrid, tmp_path: Path) -> None:
    for name in "abcde":
        (tmp_path / name).touch()
    replies, refusals = ask(grid, "die", mark=str(tmp_path))
    assert not refusals
    assert len(replies) == len(NODES)


def test_a_message_that_nobody_waits_for_is_not_delivered(grid: RayGrid) -> None:
    before = times_asked(grid, 7)
    late = request_to_message(Request(run_id="r", step="count", server_round=8), 1, ttl=0.001)
    time.sleep(0.01)
    assert list(grid.pull_messages(list(grid.push_messages([late])))) == []
    assert times_asked(grid, 9) == before + 1


def test_a_reply_can_be_pulled_once_only(grid: RayGrid) -> None:
    message = request_to_message(Request(run_id="r", step="who", server_round=7), 1, ttl=float(SECONDS))
    [reply] = grid.send_and_receive([message], timeout=SECONDS)
    identity = reply.metadata.reply_to_message_id
    assert identity == message.metadata.message_id
    assert list(grid.pull_messages([identity])) == []


def test_a_ray_of_the_caller_s_own_is_left_alone(grid: RayGrid) -> None:
    with (
        pytest.raises(FederationError, match="Expected no Ray"),
        ray_stations(client_app(), 1),
    ):
        pass
    assert processes(grid, 3)
