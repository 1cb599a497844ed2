"""Engines by name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fedpipe.errors import ConfigError
from fedpipe.federation.engines import ENGINES, find_engine

LIGHT = """
import sys
from fedpipe.federation.engines import find_engine
find_engine("in-process")
print(sorted({"ray", "tensorflow"} & set(sys.modules)))
"""


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_is_found(name: str) -> None:
    assert callable(find_engine(name))


def test_an_unknown_engine_suggests_a_known_one() -> None:
    with pytest.raises(ConfigError, match=r"found 'rays'.*ray\?"):
        find_engine("rays")


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'fedpipe\[ray\]'"):
        find_engine("ray")


def test_the_embedded_engine_imports_neither_ray_nor_tensorflow() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
