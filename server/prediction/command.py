"""`fedpipe serve`: from the words of the command line to a running server."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from fedpipe.errors import ConfigError
from fedpipe.pipeline import Workspace
from server.prediction.access import new_key
from server.prediction.options import ServeOptions
from server.prediction.sources import Catalogue, make_catalogue, parse_labels, parse_policy

logger = logging.getLogger("fedpipe.serve")


def serve(
    *,
    workspace: Path,
    models: Path | None,
    model_name: str | None,
    model_config_file: Path | None,
    versions: str,
    labels: list[str],
    **options: Any,
) -> None:
    """Serves until it is told to stop.

    Raises:
      ConfigError: the options do not go together.
    """
    if models is not None and model_config_file is not None:
        raise ConfigError("Expected --models or --model-config-file, found both.")
    owner = None
    if model_config_file is not None:
        catalogue, roots = _configured(model_config_file)
    else:
        if models is None:
            opened = Workspace.open_existing(workspace)
            owner, models = opened.root, opened.models_dir
            if not models.is_dir():
                raise ConfigError(
                    f"Expected deployed models in {models}, found none: make one with 'fedpipe simulate', "
                    "or name a directory with --models."
                )
        policy, named = parse_policy(versions), parse_labels(labels)
        catalogue = make_catalogue(models, name=model_name, policy=policy, labels=named)
        roots = (models,)
    serve_options = ServeOptions(catalogue=catalogue, roots=roots, workspace=owner, **options)
    serve_options.check()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    from fedpipe.learning.tensorflow_runtime import tf  # before anything else imports it, loudly

    logger.info("TensorFlow %s", tf.__version__)
    for noisy in ("tensorflow", "absl", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    from server.prediction.process import run_server

    run_server(serve_options, _say)


def print_new_key(name: str) -> None:
    """Prints a fresh API key, and the line of the key file that admits it."""
    key, line = new_key(name)
    _say(f"key   {key}")
    _say(f"line  {line}")


def _configured(path: Path) -> tuple[Catalogue, tuple[Path, ...]]:
    from server.prediction.reload import read_config_file

    sources = read_config_file(path)
    return Catalogue(sources=sources), tuple(source.base_path for source in sources)


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201  what was asked for
