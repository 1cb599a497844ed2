"""The embedded engine: nothing shared, nothing told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedpipe.federation import Reply, Request, flower_compat
from fedpipe.federation.flower_clients import FlowerClients
from fedpipe.federation.flower_messages import message_to_request, reply_to_message
from fedpipe.federation.in_process import InProcessGrid, run_in_process

from flwr.app import Context, Message  # isort: skip
from flwr.clientapp import ClientApp  # isort: skip
from flwr.serverapp import Grid, ServerApp  # isort: skip

SECRET = "patient Jane Roe"
NODES: list[dict[str, str | int | float | bool]] = [{"client": "b"}, {"client": "a"}]


class RecordError(Exception):
    """Carries a record, as exceptions of parsers do."""


def _app(answer: Any) -> ClientApp:
    app = ClientApp()

    @app.query("statistics")
    def validate(message: Message, context: Context) -> Message:
        return reply_to_message(answer(message_to_request(message), context), message)

    return app


def test_every_node_answers_with_its_own_configuration() -> None:
    app = _app(lambda request, context: Reply(client=str(context.node_config["client"])))
    replies, refusals = FlowerClients(InProcessGrid(app, NODES)).ask(
        Request(run_id="r", step="statistics"), timeout_seconds=5
    )
    assert [reply.client for reply in replies] == ["a", "b"]
    assert not refusals


def test_nothing_is_shared_between_server_and_clients() -> None:
    kept: list[np.ndarray[Any, Any]] = []
    values = {"list": [1]}

    def answer(request: Request, context: Context) -> Reply:
        received = request.arrays["weights"]
        received[:] = -1
        request.values["list"].append(2)
        kept.append(np.ones(2))
        return Reply(client=str(context.node_config["client"]), arrays={"sum": kept[-1]})

    weights = np.zeros(2, np.float32)
    request = Request(run_id="r", step="statistics", values=values, arrays={"weights": weights})
    replies, _ = FlowerClients(InProcessGrid(_app(answer), NODES)).ask(request, timeout_seconds=5)
    assert weights.tolist() == [0, 0]
    assert values == {"list": [1]}
    for reply in replies:
        reply.arrays["sum"][:] = 9
    assert [array.tolist() for array in kept] == [[1, 1], [1, 1]]


def test_an_exception_of_a_client_tells_the_coordinator_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fail(request: Request, context: Context) -> Reply:
        raise RecordError(SECRET)

    grid = InProcessGrid(_app(fail), NODES[:1])
    message = grid.create_message(
        content=_content(), message_type="query.validate", dst_node_id=1, group_id="", ttl=5.0
    )
    [reply] = grid.send_and_receive([message])
    assert reply.has_error()
    assert reply.metadata.reply_to_message_id == message.metadata.message_id
    assert SECRET not in repr(reply) + reply.error.reason
    assert "RecordError" not in repr(reply)
    assert SECRET not in caplog.text


def test_an_unknown_step_is_an_error_reply() -> None:
    grid = InProcessGrid(_app(lambda request, context: Reply(client="a")), NODES[:1])
    replies, refusals = FlowerClients(grid).ask(Request(run_id="r", step="steal"), timeout_seconds=5)
    assert not replies
    assert refusals[0].reason == "the client failed; its own log says why"


def test_a_reply_can_be_pulled_once_only() -> None:
    grid = InProcessGrid(_app(lambda request, context: Reply(client="a")), NODES[:1])
    message = Message(_content(), 1, "query.validate")
    identities = list(grid.push_messages([message]))
    assert len(list(grid.pull_messages(identities))) == 1
    assert list(grid.pull_messages(identities)) == []


def test_interrupting_a_client_interrupts_the_run() -> None:
    def interrupt(request: Request, context: Context) -> Reply:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FlowerClients(InProcessGrid(_app(interrupt), NODES)).ask(
            Request(run_id="r", step="statistics"), timeout_seconds=5
        )


def test_a_server_app_gets_its_run_config_and_the_grid() -> None:
    seen: list[tuple[list[int], object]] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        seen.append((list(grid.get_node_ids()), context.run_config["run-id"]))

    run_in_process(server, ClientApp(), node_configs=NODES, run_config={"run-id": "r"})
    assert seen == [([1, 2], "r")]


def _content() -> Any:
    from fedpipe.federation.flower_messages import request_to_message

    message = request_to_message(Request(run_id="r", step="statistics"), 1, ttl=5.0)
    flower_compat.address(message, 1)
    return message.content
