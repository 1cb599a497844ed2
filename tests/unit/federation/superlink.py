"""A SuperLink and its nodes over TLS on loopback, in one process and without TensorFlow, for tests."""

from __future__ import annotations

import datetime as dt
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fedpipe.federation import Refusal, Reply, Request, flower_connection, flower_node, flower_run, pki
from fedpipe.federation.flower_clients import FlowerClients
from fedpipe.federation.flower_messages import message_to_request, reply_to_message
from fedpipe.federation.flower_superlink import Addresses, Limits, SuperLink

from flwr.app import Context, Message  # isort: skip
from flwr.clientapp import ClientApp  # isort: skip
from flwr.serverapp import Grid, ServerApp  # isort: skip

import grpc  # isort: skip

LIMITS = Limits(max_message_bytes=200 << 20, max_calls_per_second=1000)
PATIENCE_SECONDS = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Federation:
    """A SuperLink on disk, and nodes in threads."""

    def __init__(self, root: Path, limits: Limits = LIMITS) -> None:
        self.root, self.limits = root, limits
        self.port = free_port()
        self.authority = pki.make_authority("demo", dt.datetime.now(dt.timezone.utc))
        certificate, key = self.authority.issue(["127.0.0.1"], dt.datetime.now(dt.timezone.utc))
        self.ca = pki.to_pem(self.authority.certificate).encode()
        self.pair = (self.ca, certificate.encode(), key.encode())
        self.keys: dict[str, pki.PrivateKey] = {}
        self.control, self.serverappio = (f"unix:{root}/{name}.sock" for name in ("c", "s"))
        self.up()

    def up(self) -> None:
        for path in self.root.glob("*.sock"):
            path.unlink()
        self.superlink = SuperLink(
            database=self.root / "state.sqlite",
            bundles=self.root / "bundles",
            certificates=lambda: self.pair,
            addresses=Addresses(
                fleet=("127.0.0.1", self.port),
                inner=f"unix:{self.root}/f.sock",
                control=self.control,
                serverappio=self.serverappio,
            ),
            limits=self.limits,
        )
        self.superlink.start()

    @property
    def public(self) -> dict[str, str]:
        return {name: pki.public_text(key.public_key()) for name, key in self.keys.items()}

    def register(self, *names: str) -> tuple[int, int]:
        for name in names:
            self.keys.setdefault(name, pki.make_key())
        return self.superlink.register({name: self.public[name] for name in names})

    def link(self, key: pki.PrivateKey, ca: bytes | None = None) -> flower_connection.Link:
        return flower_connection.Link(address=f"127.0.0.1:{self.port}", ca_certificate=ca or self.ca, key=key)

    @contextmanager
    def node(self, link: flower_connection.Link, answer: Any = None, **changes: Any) -> Iterator[list[str]]:
        """Runs a node in a thread, and yields the states that it goes through."""
        app, states = ClientApp(), []
        app.query("ping")(answer or echo)
        node = flower_node.SuperNode(
            link,
            app,
            decide=changes.get("decide", lambda request: {"client": "first"}),
            may_work=lambda: True,
            listener=flower_node.Listener(on_state=states.append),
            max_message_bytes=changes.get("max_message_bytes", 200 << 20),
        )
        thread = threading.Thread(target=node.run, daemon=True)
        thread.start()
        try:
            yield states
        finally:
            node.stop()
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive()

    def ask(
        self, request: Request, *, timeout: float = 30.0, members: dict[str, str] | None = None
    ) -> tuple[list[Reply], list[Refusal]]:
        """Returns what the nodes answer to one request of a run."""
        found: list[tuple[list[Reply], list[Refusal]]] = []
        app = ServerApp()
        numbers = {
            status.node_id: name for name, status in flower_run.list_nodes(self.control, self.public).items()
        }

        @app.main()  # type: ignore[misc]
        def main(grid: Grid, context: Context) -> None:
            clients = FlowerClients(grid, members=numbers)
            found.append(clients.ask(request, timeout_seconds=timeout))

        flower_run.run_on_superlink(app, control=self.control, serverappio=self.serverappio, run_config={})
        return found[0]


def echo(message: Message, context: Context) -> Message:
    request = message_to_request(message)
    name = str(context.node_config["client"])
    return reply_to_message(Reply(client=name, values=request.values, arrays=request.arrays), message)


def ping(**values: Any) -> Request:
    return Request(run_id="run", step="ping", values=values)


def signature(
    key: pki.PrivateKey, *, shown: pki.PrivateKey | None = None, at: str = ""
) -> list[tuple[str, Any]]:
    """Returns what `key` signs a call with; `shown` is the key that it claims to be."""
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message  # noqa: TID251

    at = at or dt.datetime.now(dt.timezone.utc).isoformat()
    return [
        ("flwr-public-key-bin", public_key_to_bytes((shown or key).public_key())),
        ("flwr-timestamp", at),
        ("flwr-signature-bin", sign_message(key, at.encode())),
    ]


def call(federation: Federation, method: str, body: bytes, key: pki.PrivateKey | None, at: str = "") -> Any:
    """Makes a raw call, as somebody who speaks the protocol, and returns the status code.

    `method` is of the Fleet API, or a whole path.
    """
    path = method if method.startswith("/") else f"/flwr.proto.Fleet/{method}"
    metadata = signature(key, at=at) if key else []
    tls = grpc.ssl_channel_credentials(federation.ca)
    options = [("grpc.max_send_message_length", -1)]
    with grpc.secure_channel(f"127.0.0.1:{federation.port}", tls, options=options) as channel:
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary(path)(body, metadata=metadata, timeout=10)
        return error.value.code()
