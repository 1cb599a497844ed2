"""What runs the Flower apps on this machine, by name. None of them changes a result."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from fedpipe.errors import ConfigError, nearest

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

    from fedpipe.federation.local_grid import NodeConfig

ENGINES = ("in-process", "ray")


class Engine(Protocol):
    """Runs a ServerApp against one ClientApp per node."""

    def __call__(
        self,
        server_app: ServerApp,
        client_app: ClientApp,
        *,
        node_configs: Sequence[NodeConfig],
        run_config: NodeConfig,
    ) -> None:
        """Returns when `server_app` has ended, and raises what it raises."""


def find_engine(name: str, *, num_actors: int | None = None) -> Engine:
    """Returns the engine of that name; `num_actors` is for those that have several processes.

    Raises:
      ConfigError: it is unknown, or what it needs is not installed.
    """
    if name == "in-process":
        from fedpipe.federation.in_process import run_in_process

        return run_in_process
    if name == "ray":
        if importlib.util.find_spec("ray") is None:
            raise ConfigError(
                "Expected the package ray for federation.engine=ray, found none: "
                "pip install 'fedpipe[ray]', or use --engine in-process."
            )
        from fedpipe.federation.ray_engine import run_on_ray

        return partial(run_on_ray, num_actors=num_actors)
    raise ConfigError(f"Expected a known federation.engine, found {name!r}. {nearest(name, ENGINES)}")
