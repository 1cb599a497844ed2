"""TensorFlow Serving's model configuration: read at the start from a file, or sent later over gRPC."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from fedpipe.errors import ConfigError
from server.prediction.errors import Code, ServingError, invalid
from server.prediction.repository import Repository
from server.prediction.sources import Catalogue, ModelSource, VersionPolicy


class Reload:
    """Applies a ModelServerConfig. Its models must lie below `roots`: a client must not open other files."""

    def __init__(self, repository: Repository, roots: tuple[Path, ...]) -> None:
        self._repository = repository
        self._roots = tuple(root.resolve() for root in roots)

    async def apply(self, config: Any) -> None:
        """Serves what `config` says, and nothing else.

        Raises:
          ServingError: it is no list of models, or one lies elsewhere. Nothing is changed then.
        """
        try:
            sources = sources_of(config)
        except ConfigError as error:
            raise invalid(str(error)) from error
        for source in sources:
            if not any(source.base_path.resolve().is_relative_to(root) for root in self._roots):
                raise ServingError(
                    Code.PERMISSION_DENIED,
                    "Expected models below the directories that the server was started with.",
                )
        await self._repository.replace(Catalogue(sources=sources))


def read_config_file(path: Path) -> tuple[ModelSource, ...]:
    """Returns the models of a file in TensorFlow Serving's `--model_config_file` form.

    Raises:
      ConfigError: it cannot be read or used.
    """
    try:
        config = text_format.Parse(
            path.read_text(encoding="utf-8"), model_server_config_pb2.ModelServerConfig()
        )
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"Expected a ModelServerConfig in text form at {path}, found: {reason}.") from error
    return sources_of(config)


def sources_of(config: Any) -> tuple[ModelSource, ...]:
    """Returns the models of a ModelServerConfig.

    Raises:
      ConfigError: it lists none, or one of them cannot be meant.
    """
    if config.WhichOneof("config") != "model_config_list":
        raise ConfigError("Expected a model_config_list, found none.")
    sources = tuple(_source(model) for model in config.model_config_list.config)
    names = [source.name for source in sources]
    if len(set(names)) != len(names):
        raise ConfigError("Expected each model once, found one name twice.")
    return sources


def _source(model: Any) -> ModelSource:
    if not model.name or "/" in model.name or ":" in model.name:
        raise ConfigError("Expected each model with a name without '/' and ':'.")
    if model.model_platform not in ("", "tensorflow"):
        raise ConfigError(f"Expected model_platform tensorflow for {model.name}, found another.")
    path = Path(model.base_path)
    if not path.is_absolute():
        raise ConfigError(f"Expected an absolute base_path for {model.name}.")
    return ModelSource(
        name=model.name,
        base_path=path,
        policy=_policy(model.model_version_policy, model.name),
        labels=dict(model.version_labels),
    )


def _policy(policy: Any, name: str) -> VersionPolicy:
    kind = policy.WhichOneof("policy_choice")
    if kind == "all":
        return VersionPolicy(latest=None)
    if kind == "specific":
        if not policy.specific.versions:
            raise ConfigError(f"Expected at least one specific version of {name}.")
        return VersionPolicy(latest=None, specific=frozenset(policy.specific.versions))
    return VersionPolicy(latest=max(1, policy.latest.num_versions))
