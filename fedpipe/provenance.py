"""Which code made a result: the digest of a module and of everything of fedpipe's that it imports."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fedpipe.errors import PipelineError
from fedpipe.files import digest_json, sha256

_HOME = Path(__file__).resolve().parent.parent
PACKAGES = ("fedpipe", "clients", "server", "simulations")
# What decides results besides our own code.
DISTRIBUTIONS = ("tensorflow", "tensorflow-privacy", "dp-accounting", "opendp", "numpy", "pandas", "scipy")


@cache
def code_digest(module: str) -> str:
    """Returns the SHA-256 of `module`, all modules of `PACKAGES` behind it, and `DISTRIBUTIONS`' versions.

    Imports are read from the sources, those inside functions included; nothing is executed.

    Raises:
      PipelineError: `module` has no source file.
    """
    sources: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in sources:
            continue
        path = _source(name)
        if path is None:
            if name == module:
                raise PipelineError(
                    f"Expected module {name} in a source file, found none. Move the step's function into one."
                )
            continue
        sources[name] = sha256(path.read_bytes())
        waiting += _imports(name, path)
    return digest_json({"sources": sources, "versions": {name: _version(name) for name in DISTRIBUTIONS}})


def _source(module: str) -> Path | None:
    """Returns the file of a module that is ours or loaded; to look it up otherwise would run its parents."""
    loaded = getattr(sys.modules.get(module), "__file__", None)
    stem = _HOME.joinpath(*module.split("."))
    candidates = [stem.with_suffix(".py"), stem / "__init__.py", *([Path(loaded)] if loaded else [])]
    return next((path for path in candidates if path.suffix == ".py" and path.is_file()), None)


@cache
def _imports(module: str, path: Path) -> tuple[str, ...]:
    """Returns what `module` imports of ours: modules, and names in them that may be modules."""
    found = (name for node in ast.walk(ast.parse(path.read_bytes())) for name in _named(node))
    return tuple(sorted({name for name in found if name.partition(".")[0] in PACKAGES and name != module}))


def _named(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
