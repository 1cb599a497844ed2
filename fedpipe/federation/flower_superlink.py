"""Flower's SuperLink, put together from its own parts, with one port that others can reach.

`flower-superlink` binds every interface, gives launch tokens and node registration to whoever reaches
its ports, and takes messages of two gigabytes at any rate. Here the same servicers stand behind:

  fleet        one TLS port, for nodes whose keys are registered; what others may hold of it, sizes and
               rates are bounded
  control,     Unix sockets in a directory that only the operator can open: neither has any
  serverappio  authentication of its own

State is in SQLite: a SuperLink that was killed goes on where it was.
"""

from __future__ import annotations

import datetime as dt
import sqlite3
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedpipe.errors import ConfigError, FederationError
from fedpipe.federation import flower_compat
from fedpipe.federation.connections import ConnectionLimits, Connections
from fedpipe.federation.flower_guard import Guard
from fedpipe.federation.flower_servicers import AppIo, Fleet, News
from fedpipe.federation.flower_state import StateFile, forget_old
from fedpipe.federation.pki import read_public
from fedpipe.federation.refusals import Refusals
from fedpipe.federation.relay import Relay

with flower_compat.hidden("tensorflow", "ray"):
    import grpc
    from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, NOOP_FLWR_AID
    from flwr.proto.control_pb2_grpc import add_ControlServicer_to_server
    from flwr.proto.fleet_pb2_grpc import add_FleetServicer_to_server
    from flwr.proto.serverappio_pb2_grpc import add_ServerAppIoServicer_to_server
    from flwr.supercore.ffs import FfsFactory
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes
    from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin, NoOpControlAuthzPlugin
    from flwr.superlink.servicer.control.control_account_auth_interceptor import (
        ControlAccountAuthInterceptor,
    )
    from flwr.superlink.servicer.control.control_servicer import ControlServicer

# Flower cuts arrays into chunks of 5 MiB, each a message of its own.
MAX_CALL_BYTES = 16 << 20
MAX_THREADS = 256  # each connected node holds one while it waits
MAX_STREAMS = 64  # calls at once on one connection
REGISTERED = ("registered", "online", "offline")  # Flower's words for nodes that were not struck off
STOP_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one node may use, bytes of an answer and calls a second over ten seconds; and what others may."""

    max_message_bytes: int
    max_calls_per_second: float
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Where a SuperLink listens: host and port for nodes, Unix sockets for the operator.

    `inner` is the socket, closed to others as well, through which the port's connections reach gRPC.
    """

    fleet: tuple[str, int]
    inner: str
    control: str
    serverappio: str


def _ignore(kind: str) -> None:
    """Counts nothing."""


class SuperLink:
    """A SuperLink in this process.

    Args:
      database: SQLite file of Flower's state.
      bundles: directory of Flower's bundles.
      certificates: returns (authority, certificate, key), PEM.
      addresses: where to listen.
      limits: of each node.
      on_refusal: is given the gRPC status, in small letters, with which a call to the fleet port was
        refused, or `connection` for one that was ended.
    """

    def __init__(
        self,
        *,
        database: Path,
        bundles: Path,
        certificates: Callable[[], tuple[bytes, bytes, bytes]],
        addresses: Addresses,
        limits: Limits,
        on_refusal: Callable[[str], None] = _ignore,
    ) -> None:
        self._state = StateFile(database)
        parts = (self._state, FfsFactory(str(bundles)), self._state)
        tls = grpc.dynamic_ssl_server_credentials(_configuration(certificates()), renewals(certificates))
        self._members = set(self._registered())
        refusals = Refusals(on_refusal)
        connections = Connections(limits.connections, refusals)
        guard = Guard(
            self._state,
            is_member=lambda key: key in self._members,
            max_calls_per_second=limits.max_calls_per_second,
            connections=connections,
            refusals=refusals,
        )
        self._relay = _listen(addresses, connections)
        self._news = News()
        fleet = Fleet(*parts, news=self._news, max_message_bytes=limits.max_message_bytes)
        self._servers = [
            _serve(fleet, add_FleetServicer_to_server, addresses.inner, tls=tls, interceptors=[guard]),
            _serve(AppIo(*parts, news=self._news), add_ServerAppIoServicer_to_server, addresses.serverappio),
            _serve(
                ControlServicer(*parts, is_simulation=False, authn_plugin=_anybody(NoOpControlAuthnPlugin)),
                add_ControlServicer_to_server,
                addresses.control,
                interceptors=[
                    ControlAccountAuthInterceptor(
                        _anybody(NoOpControlAuthnPlugin), _anybody(NoOpControlAuthzPlugin)
                    )
                ],
            ),
        ]

    def start(self) -> None:
        """Begins to serve."""
        for server in self._servers:
            server.start()
        self._relay.start()

    def stop(self) -> None:
        """Ends all calls, after a moment for those that are under way."""
        self._news.close()
        for stopped in [server.stop(STOP_SECONDS) for server in self._servers]:
            stopped.wait()
        self._relay.stop()
        self._state.close()

    def num_online(self) -> int:
        """Returns how many nodes are connected."""
        with self._state.opened() as opened:
            return len(opened.state.get_node_info(statuses=("online",)))

    def forget_old(self, now: dt.datetime) -> None:
        """Deletes what is left of ended runs and of requests that can be answered no more.

        Raises:
          FederationError: the state is locked or its disk full; the next time may do better.
        """
        try:
            with self._state.opened() as opened:
                forget_old(opened, now)
        except sqlite3.Error as error:
            raise FederationError(f"Expected to tidy the SuperLink's state, found: {error}.") from error

    def register(self, keys: Mapping[str, str]) -> tuple[int, int]:
        """Makes the registered nodes exactly those of `keys`, public keys in OpenSSH's format by name.

        Returns how many nodes are new, and how many keys were struck off.
        """
        wanted = {public_key_to_bytes(read_public(text)) for text in keys.values()}
        known = self._registered()
        self._members = wanted & known.keys()
        with self._state.opened() as opened:
            for key in known.keys() - wanted:
                opened.state.delete_node(NOOP_FLWR_AID, known[key])
            for key in wanted - known.keys():
                opened.state.create_node(NOOP_FLWR_AID, key, HEARTBEAT_DEFAULT_INTERVAL)
        self._members = wanted
        return len(wanted - known.keys()), len(known.keys() - wanted)

    def _registered(self) -> dict[bytes, int]:
        """Returns the nodes that were not struck off, by public key as Flower serialises it."""
        with self._state.opened() as opened:
            found = opened.state.get_node_info(statuses=REGISTERED)
        return {node.public_key: node.node_id for node in found}


def _listen(addresses: Addresses, connections: Connections) -> Relay:
    host, port = addresses.fleet
    try:
        return Relay((host, port), addresses.inner.removeprefix("unix:"), connections)
    except OSError as error:
        raise ConfigError(
            f"Expected to listen on {host}:{port}, found it taken or no address of this machine: see listen "
            "in federation.yaml."
        ) from error


def renewals(certificates: Callable[[], tuple[bytes, bytes, bytes]]) -> Callable[[], Any]:
    """Returns what gRPC asks at every handshake: for a renewed certificate, or None if it is as it was.

    gRPC exchanges certificates without a lock. Given one at every handshake, it aborts the whole process
    as soon as two of them coincide in a bad moment.
    """
    current, lock = certificates(), threading.Lock()

    def renewed() -> Any:
        nonlocal current
        with lock:
            found = certificates()
            if found == current:
                return None
            current = found
        return _configuration(found)

    return renewed


def _configuration(certificates: tuple[bytes, bytes, bytes]) -> Any:
    authority, certificate, key = certificates
    return grpc.ssl_server_certificate_configuration(((key, certificate),), root_certificates=authority)


def _anybody(plugin: Callable[[Path, bool], Any]) -> Any:
    """Returns a plugin that asks nothing: the socket's directory decides who may connect."""
    return plugin(Path(), False)


def _serve(
    servicer: Any,
    add: Callable[[Any, grpc.Server], None],
    address: str,
    *,
    tls: Any = None,
    interceptors: list[Any] | None = None,
) -> grpc.Server:
    server = grpc.server(
        ThreadPoolExecutor(max_workers=MAX_THREADS),
        maximum_concurrent_rpcs=2 * MAX_THREADS,
        interceptors=interceptors or (),
        options=[
            ("grpc.max_receive_message_length", MAX_CALL_BYTES),
            ("grpc.max_send_message_length", MAX_CALL_BYTES),
            ("grpc.so_reuseport", 0),
            ("grpc.max_connection_idle_ms", 300_000),
            ("grpc.max_concurrent_streams", MAX_STREAMS),
            ("grpc.http2.max_pings_without_data", 0),
        ],
    )
    add(servicer, server)
    server.add_secure_port(address, tls) if tls else server.add_insecure_port(address)
    return server
