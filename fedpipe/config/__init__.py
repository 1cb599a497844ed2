"""One configuration: every setting with its default, checked before anything heavy is imported."""

from fedpipe.config.files import config_names, find_config, load_config, parse_config
from fedpipe.config.settings import (
    MAX_SPANS,
    AnalyzeSettings,
    Config,
    FederationSettings,
    SpanSettings,
    ValidateSettings,
)

__all__ = [
    "MAX_SPANS",
    "AnalyzeSettings",
    "Config",
    "FederationSettings",
    "SpanSettings",
    "ValidateSettings",
    "config_names",
    "find_config",
    "load_config",
    "parse_config",
]
