"""The service's process: front end and committees, until it is told to stop."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

import uvicorn

from fedpipe.encrypted.provisioning import find_environment
from fedpipe.errors import ConfigError, EncryptedError
from fedpipe.files import make_private_directory, write_text
from server.encrypted.committee import Committee, CommitteeSettings
from server.encrypted.deployment import COORDINATOR
from server.encrypted.doors import Doors, listen
from server.encrypted.front_end import FrontEnd
from server.encrypted.options import UpOptions, state_path
from server.encrypted.rates import Rates
from server.encrypted.raw_rows import raw_predictor
from server.encrypted.service import Make, Service
from server.encrypted.spread import SpreadCommittee
from server.encrypted.threat_model import threat_model
from server.encrypted.tunnel import Tunnel
from server.encrypted.web import make_app
from server.listening import WebServer
from server.prediction.access import KeyRing
from server.prediction.options import Say

__all__ = ["read_state", "run_service", "state_path", "stop_service"]

logger = logging.getLogger("fedpipe.encrypted")

_STATE_SECONDS = 1.0
# Longer than clients keep a connection (httpx: 5 s): who closes second never meets a closed one.
_IDLE_SECONDS = 60
_STOP_SECONDS = 60.0


def run_service(options: UpOptions, say: Say) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
      ConfigError: the options do not go together, or a port is taken.
      EncryptedError: the parties' environment or their isolation is not to be had.
    """
    keys = options.check()
    python = find_environment(options.home)
    state = read_state(options.state_path)
    if state is not None:
        raise EncryptedError(
            f"Expected no encrypted service on {options.workspace}, found process {state['pid']}: "
            "end it with 'fedpipe encrypted down'."
        )
    make_private_directory(options.state_path.parent)
    settings = CommitteeSettings(
        python=python,
        log=options.state_path.parent / "parties.log",
        isolated=not options.unisolated,
        deadline_seconds=options.deadline_seconds,
    )
    say(threat_model(options))
    try:
        asyncio.run(_serve(options, settings, keys, say))
    finally:
        options.state_path.unlink(missing_ok=True)


def read_state(path: Path) -> dict[str, Any] | None:
    """Returns what a running service last said of itself; None if none runs.

    Raises:
      EncryptedError: the file is damaged.
    """
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        alive = _started_at(state["pid"]) == state["process_started"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EncryptedError(f"Expected a readable {path}, found it damaged: delete it.") from error
    return state if alive else None


def stop_service(path: Path) -> bool:
    """Ends the service; returns whether there was one.

    Raises:
      EncryptedError: it does not end.
    """
    state = read_state(path)
    if state is None:
        return False
    os.kill(state["pid"], signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    while read_state(path) is not None:
        if time.monotonic() > deadline:
            raise EncryptedError(f"Expected process {state['pid']} to end, found it alive: kill it.")
        time.sleep(0.1)
    return True


async def _serve(options: UpOptions, settings: CommitteeSettings, keys: KeyRing | None, say: Say) -> None:
    tunnel = await _open_tunnel(options)
    service = Service(options, _committees(options, settings, tunnel), settings, say)
    listener = listen(options.host, options.port)
    url = f"{'https' if options.tls else 'http'}://{options.public_name}:{listener.getsockname()[1]}"
    web = _make_web(options, service, keys, url)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    say(f"front end: {url}")
    tasks = [
        asyncio.create_task(web.serve(sockets=[listener])),
        asyncio.create_task(stopping.wait()),
        asyncio.create_task(service.follow()),
        asyncio.create_task(_tell_state(options.state_path, url, service, keys)),
    ]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        web.should_exit = True  # it ends by itself, once what was asked is answered
        for task in tasks[1:]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await service.close()
        if tunnel is not None:
            await tunnel.close()


def _make_web(options: UpOptions, service: Service, keys: KeyRing | None, url: str) -> uvicorn.Server:
    """Returns the front end's server, which is told where to listen when it starts."""
    front_end = FrontEnd(service, keys, Rates(options.rows_per_minute))
    raw = raw_predictor(url, options.party_authority) if options.accept_raw_rows else None
    config = uvicorn.Config(
        make_app(front_end, service, raw),
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ssl_certfile=options.tls_cert,
        ssl_keyfile=options.tls_key,
        timeout_keep_alive=_IDLE_SECONDS,
    )
    return WebServer(config)


async def _open_tunnel(options: UpOptions) -> Tunnel | None:
    if options.deployment is None or options.credentials is None:
        return None
    tunnel = Tunnel(options.deployment, options.credentials, COORDINATOR)
    try:
        await tunnel.listen()
    except OSError as error:
        raise ConfigError(
            f"Expected to listen at {options.deployment.coordinator}, found: {error.strerror}."
        ) from error
    return tunnel


def _committees(options: UpOptions, settings: CommitteeSettings, tunnel: Tunnel | None) -> Make:
    """Returns what makes committees, here or spread over the deployment's hosts."""
    if tunnel is not None:
        return lambda width, buckets: SpreadCommittee(
            settings=settings, doors=(), input_width=width, buckets=buckets, tunnel=tunnel
        )
    doors = Doors(options)
    return lambda width, buckets: Committee(
        settings=settings,
        doors=(opened := doors.open()),
        input_width=width,
        buckets=buckets,
        release=lambda: doors.release(opened),
    )


async def _tell_state(path: Path, url: str, service: Service, keys: KeyRing | None) -> None:
    """Writes what `status` shows whenever it changed, and reads the keys again."""
    known = {"pid": os.getpid(), "process_started": _started_at(os.getpid()), "url": url}
    while True:
        state = {**known, "written_at": time.time(), **service.describe()}
        try:
            write_text(path, json.dumps(state, indent=2) + "\n")
        except OSError as error:  # a full disk is no reason to refuse requests
            logger.warning("Expected to write %s, found: %s. Its state is older.", path, error.strerror)
        await asyncio.sleep(_STATE_SECONDS)
        try:
            if keys is not None:
                keys.reload()
        except ConfigError as error:
            logger.warning("%s The keys stay as they were.", error)


def _started_at(pid: int) -> str | None:
    """Returns when a process started, which tells it from a later one of the same number; proc(5)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None
