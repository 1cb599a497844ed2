"""A coordinator process at a SuperLink: it starts a Flower run, and is its ServerApp itself.

Flower would start the ServerApp in a process of its own, from a bundle. Here the bundle is empty but for
its name: what runs is the code that is installed, on both sides.
"""

from __future__ import annotations

import io
import logging
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fedpipe.errors import FederationError
from fedpipe.federation import flower_compat
from fedpipe.federation.pki import read_public

with flower_compat.hidden("tensorflow", "ray"):
    import grpc
    from flwr.app import Error
    from flwr.common.constant import ErrorCode, Status, SubStatus
    from flwr.common.grpc import create_channel
    from flwr.common.heartbeat import HeartbeatSender, get_grpc_app_heartbeat_fn
    from flwr.common.inflatable import iterate_object_tree
    from flwr.common.inflatable_protobuf_utils import make_pull_object_fn_protobuf
    from flwr.common.inflatable_utils import (
        ObjectIdNotPreregisteredError,
        ObjectUnavailableError,
        inflate_object_from_contents,
        pull_objects,
    )
    from flwr.common.serde import fab_to_proto, message_from_proto, run_status_to_proto
    from flwr.common.typing import Fab, RunNotRunningException, RunStatus
    from flwr.proto.appio_pb2 import PullAppInputsRequest, PullAppMessagesRequest, RequestTokenRequest
    from flwr.proto.control_pb2 import ListNodesRequest, StartRunRequest
    from flwr.proto.control_pb2_grpc import ControlStub
    from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
    from flwr.proto.run_pb2 import UpdateRunStatusRequest
    from flwr.server.grid.grpc_grid import GrpcGrid
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from flwr.app import Context, Message, RecordDict  # isort: skip
from flwr.serverapp import ServerApp  # isort: skip

CALL_SECONDS = 30.0
# A node that died while it sent leaves an answer without its parts.
PARTS_SECONDS = 60.0
BACKOFF_SECONDS = 0.02
# How long a run outlives a SuperLink that is away, before it stops and can be resumed.
AWAY_SECONDS = 300.0
LONG_PAUSE_SECONDS = 5.0
PROJECT = """
[project]
name = "fedpipe"
version = "1"
[tool.flwr.app]
publisher = "fedpipe"
[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "clients.app:app"
"""

logger = logging.getLogger("fedpipe.run")


@dataclass(frozen=True, kw_only=True)
class NodeStatus:
    """A registered node: Flower's number of it, and whether it is connected."""

    node_id: int
    online: bool


def list_nodes(control: str, keys: Mapping[str, str]) -> dict[str, NodeStatus]:
    """Returns the registered nodes among `keys`, public keys in OpenSSH's format, by name."""
    names = {public_key_to_bytes(read_public(text)): name for name, text in keys.items()}
    with _control(control) as stub:
        found = stub.ListNodes(ListNodesRequest(), timeout=CALL_SECONDS).nodes_info
    return {
        names[node.public_key]: NodeStatus(node_id=node.node_id, online=node.status == "online")
        for node in found
        if node.public_key in names and node.status != "unregistered"
    }


def run_on_superlink(
    server_app: ServerApp,
    *,
    control: str,
    serverappio: str,
    run_config: Mapping[str, str | int | float | bool],
) -> None:
    """Runs `server_app` to its end over the nodes of a SuperLink, in the calling thread.

    Raises:
      FederationError: the SuperLink went away, or ended the run; and whatever the app raises.
    """
    run_id = _start(control)
    grid = _Grid(serverappio_service_address=serverappio)
    grid._retry_invoker.max_time = AWAY_SECONDS
    grid._retry_invoker.wait_function = _wait
    try:
        with _running(grid, run_id):
            server_app(grid=grid, context=_context(run_id, run_config))
    except (grpc.RpcError, RunNotRunningException) as error:
        raise FederationError(
            "Expected the SuperLink to stay within reach, found it gone for too long, or the run ended "
            "there. What was done is kept: once it is up, run the same command again."
        ) from error
    finally:
        grid.close()


def _wait(seconds: float) -> None:
    # Flower's own says the same with every try, twice and in colours.
    if seconds > LONG_PAUSE_SECONDS:
        logger.warning(
            "The SuperLink is away: the run waits for it, %.0f minutes at most.", AWAY_SECONDS / 60
        )
    time.sleep(min(seconds, LONG_PAUSE_SECONDS))


class _Grid(GrpcGrid):
    """Flower's Grid; an answer whose parts do not arrive is given up soon, not after two hours."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Returns the answers that have arrived."""
        run_id = self.run.run_id
        wanted = list(message_ids)
        if not wanted:
            return []
        found = self._stub.PullMessages(PullAppMessagesRequest(message_ids=wanted, run_id=run_id))
        pairs = zip(found.messages_list, found.message_object_trees, strict=True)
        return [self._inflate(message_from_proto(proto), tree) for proto, tree in pairs]

    def _inflate(self, shell: Message, tree: Any) -> Message:
        run_id = self.run.run_id
        pull = make_pull_object_fn_protobuf(self._stub.PullObject, self.node, run_id)
        parts = [each.object_id for each in iterate_object_tree(tree)]
        try:
            contents = pull_objects(parts, pull, max_time=PARTS_SECONDS, initial_backoff=BACKOFF_SECONDS)
            message: Any = inflate_object_from_contents(tree.object_id, contents)
            content = None if message.has_error() else message.content
            error = message.error if message.has_error() else None
        except (ObjectUnavailableError, ObjectIdNotPreregisteredError, ValueError, KeyError, AttributeError):
            logger.warning("An answer came without all its parts.")
            content, error = None, Error(ErrorCode.MESSAGE_UNAVAILABLE, "incomplete")
        self._stub.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=self.node, run_id=run_id, message_object_id=tree.object_id)
        )
        # The SuperLink has checked who answers what in `shell`; what the parts say of it may be anything.
        return flower_compat.make_message(shell.metadata, content, error)


def _start(control: str) -> int:
    fab = fab_to_proto(Fab("", _bundle(), {}))
    with _control(control) as stub:
        run_id = int(stub.StartRun(StartRunRequest(fab=fab), timeout=CALL_SECONDS).run_id)
    if not run_id:
        raise FederationError("Expected the SuperLink to start a run, found it refusing: its log says why.")
    return run_id


def _bundle() -> bytes:
    """Returns the same bytes for every run, without a date: Flower keeps each bundle that differs."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(zipfile.ZipInfo("pyproject.toml"), PROJECT)
    return stream.getvalue()


@contextmanager
def _control(address: str) -> Iterator[ControlStub]:
    channel = create_channel(address, insecure=True)
    try:
        yield ControlStub(channel)
    except grpc.RpcError as error:
        raise FederationError(
            f"Expected the SuperLink to answer, found: {error.code().name.lower()}. Is fedpipe federation up "
            "running?"
        ) from error
    finally:
        channel.close()


@contextmanager
def _running(grid: GrpcGrid, run_id: int) -> Iterator[None]:
    """Keeps the run alive at the SuperLink while the block works, and says how it ended."""
    stub = grid._stub
    token = stub.RequestToken(RequestTokenRequest(run_id=run_id)).token
    stub.PullAppInputs(PullAppInputsRequest(token=token))
    grid.set_run(run_id)
    _set_status(stub, run_id, RunStatus(Status.RUNNING, "", ""))
    heart = HeartbeatSender(get_grpc_app_heartbeat_fn(stub, run_id, failure_message="the run has ended"))
    heart.start()
    ended = RunStatus(Status.FINISHED, SubStatus.FAILED, "")
    try:
        yield
        ended = RunStatus(Status.FINISHED, SubStatus.COMPLETED, "")
    finally:
        if heart.is_running:
            heart.stop()
        grid._retry_invoker.max_tries = 1
        try:
            _set_status(stub, run_id, ended)
        except (grpc.RpcError, RunNotRunningException):
            logger.warning("The SuperLink could not be told that the run has ended.")


def _set_status(stub: Any, run_id: int, status: RunStatus) -> None:
    stub.UpdateRunStatus(UpdateRunStatusRequest(run_id=run_id, run_status=run_status_to_proto(status)))


def _context(run_id: int, run_config: Mapping[str, str | int | float | bool]) -> Context:
    return Context(run_id=run_id, node_id=0, node_config={}, state=RecordDict(), run_config=dict(run_config))
