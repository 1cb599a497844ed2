"""The server process: it listens, follows the disk, and stops without dropping a request."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import signal
import socket
import sys
from dataclasses import dataclass, field
from typing import Any

import grpc
import uvicorn
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from fedpipe.errors import ConfigError
from server.listening import WebServer, bind_socket, check_certificate
from server.prediction.access import KeyRing
from server.prediction.greeting import greeting
from server.prediction.grpc_service import ModelServicer, PredictionServicer
from server.prediction.metrics import Metrics
from server.prediction.options import Say, ServeOptions
from server.prediction.provenance import workspace_headers
from server.prediction.reload import Reload
from server.prediction.repository import Repository
from server.prediction.service import Limits, PredictionService
from server.prediction.web import WebApp, bounded_protocol

logger = logging.getLogger("fedpipe.serve")

_HEALTH_NAMES = ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")
_HEADER_BYTES = 16 << 10
# A loader computes in Python for a second: others must not wait for it 5 ms each time.
_SWITCH_SECONDS = 0.0005


def run_server(options: ServeOptions, say: Say) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
      ConfigError: the options do not go together, or a port is taken.
    """
    keys = options.check()
    if options.tls_cert is not None and options.tls_key is not None:
        check_certificate(options.tls_cert, options.tls_key)
    sys.setswitchinterval(_SWITCH_SECONDS)
    # TensorFlow's modules are 400,000 objects, which a collection looked at for half a second each time.
    gc.collect()
    gc.freeze()
    asyncio.run(_Server(options, keys, say).serve())


@dataclass(eq=False)
class _Server:
    options: ServeOptions
    keys: KeyRing | None
    say: Say
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self) -> None:
        options, metrics = self.options, Metrics()
        self.repository = Repository(
            options.catalogue,
            num_threads=options.threads,
            max_batch_rows=options.max_batch_rows,
            provenance=functools.partial(workspace_headers, options.workspace)
            if options.workspace
            else lambda name, version: (),
            observe=lambda name: functools.partial(metrics.observe_batch, name),
        )
        limits = Limits(
            max_request_bytes=options.max_request_bytes,
            max_in_flight=options.max_in_flight,
            timeout_seconds=options.timeout_seconds,
        )
        service = PredictionService(
            models=self.repository.models, metrics=metrics, limits=limits, keys=self.keys
        )
        self._stop_on_signals()
        self.health = health.aio.HealthServicer()
        web, rest = self._make_web(service)
        rpc = await self._start_grpc(service)
        tasks = [asyncio.create_task(web.serve(sockets=[rest]))] if web and rest else []
        tasks.append(asyncio.create_task(self._follow(rest, rpc[1] if rpc else None)))
        try:
            await self._wait(tasks)
        finally:
            await self._shut_down(web, rpc[0] if rpc else None, tasks)

    def is_ready(self) -> bool:
        """Whether clients should send requests."""
        return not self.stopping.is_set() and self.repository.models.ready()

    async def _wait(self, tasks: list[asyncio.Task[None]]) -> None:
        stop = asyncio.create_task(self.stopping.wait())
        done, _ = await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        for task in done - {stop}:
            task.result()

    def _stop_on_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)

    def _make_web(self, service: PredictionService) -> tuple[uvicorn.Server | None, socket.socket | None]:
        options = self.options
        if options.rest_port is None:
            return None, None
        bound = bind_socket(options.host, options.rest_port, option="--rest-port")
        config = uvicorn.Config(
            WebApp(service, self.is_ready),
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=int(options.client_seconds) + 1,
            timeout_graceful_shutdown=int(options.drain_seconds) + 1,
            h11_max_incomplete_event_size=_HEADER_BYTES,
            limit_concurrency=4 * options.max_in_flight,
            ssl_certfile=options.tls_cert,
            ssl_keyfile=options.tls_key,
        )
        config.load()
        config.http_protocol_class = bounded_protocol(config.http_protocol_class, options.client_seconds)
        return WebServer(config), bound

    async def _start_grpc(self, service: PredictionService) -> tuple[Any, int] | None:
        options = self.options
        if options.grpc_port is None:
            return None
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", options.max_request_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
            ],
        )
        reload = Reload(self.repository, options.roots)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            PredictionServicer(service), server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelServicer(service, reload), server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        port = _add_grpc_port(server, options)
        await server.start()
        return server, port

    async def _follow(self, rest: socket.socket | None, grpc_port: int | None) -> None:
        """Loads what is there, says so, then follows the disk."""
        await self.repository.poll()
        ports = (rest.getsockname()[1] if rest else None, grpc_port)
        for line in greeting(self.options, self.repository.models, *ports):
            self.say(line)
        while True:
            await self._tell_health()
            await asyncio.sleep(self.options.poll_seconds)
            await self.repository.poll()
            self._reload_keys()

    async def _tell_health(self) -> None:
        kinds = health_pb2.HealthCheckResponse
        status = kinds.SERVING if self.is_ready() else kinds.NOT_SERVING
        for name in _HEALTH_NAMES:
            await self.health.set(name, status)

    def _reload_keys(self) -> None:
        try:
            if self.keys is not None and self.keys.reload():
                logger.info("Read the API keys again.")
        except ConfigError as error:
            logger.warning("%s The keys stay as they were.", error)

    async def _shut_down(self, web: Any, rpc: Any, tasks: list[asyncio.Task[None]]) -> None:
        self.stopping.set()
        tasks.pop().cancel()
        await self.health.enter_graceful_shutdown()
        if web is not None:
            web.should_exit = True
        if rpc is not None:
            await rpc.stop(self.options.drain_seconds)
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.repository.close()


def _add_grpc_port(server: Any, options: ServeOptions) -> int:
    host = f"[{options.host}]" if ":" in options.host else options.host
    address = f"{host}:{options.grpc_port}"
    try:
        if options.tls_cert is None or options.tls_key is None:
            return int(server.add_insecure_port(address))
        pair = (options.tls_key.read_bytes(), options.tls_cert.read_bytes())
        return int(server.add_secure_port(address, grpc.ssl_server_credentials([pair])))
    except RuntimeError as error:
        raise ConfigError(
            f"Expected to listen on {address}, found it taken or no address of this machine: "
            "choose another --grpc-port."
        ) from error
