"""Which code a digest covers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fedpipe import provenance
from fedpipe.errors import PipelineError
from fedpipe.provenance import code_digest


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of ours: `outer` imports `inner` in a function, nothing imports `aside`."""
    folder = tmp_path / "fedpipe"
    folder.mkdir()
    (folder / "outer.py").write_text("def run():\n    from fedpipe import inner\n    return inner\n")
    (folder / "inner.py").write_text("import fedpipe.innermost as i\n")
    (folder / "innermost.py").write_text("VALUE = 1\n")
    (folder / "aside.py").write_text("VALUE = 1\n")
    monkeypatch.setattr(provenance, "_HOME", tmp_path)
    return folder


def digest() -> str:
    provenance.code_digest.cache_clear()
    provenance._imports.cache_clear()
    return code_digest("fedpipe.outer")


@pytest.mark.parametrize(
    ("changed", "matters"), [("outer", True), ("inner", True), ("innermost", True), ("aside", False)]
)
def test_all_that_is_imported_anywhere_matters_and_nothing_else(
    package: Path, changed: str, matters: bool
) -> None:
    before = digest()
    path = package / f"{changed}.py"
    path.write_text(path.read_text() + "# changed\n")
    assert (digest() != before) is matters


def test_versions_of_what_computes_matter(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest()
    monkeypatch.setattr(provenance, "_version", lambda name: "0.0")
    assert digest() != before


def test_a_module_without_source_is_refused() -> None:
    with pytest.raises(PipelineError, match="source file"):
        code_digest("builtins")


def test_nothing_is_imported_to_be_digested() -> None:
    code = (
        "import json, sys; from fedpipe.provenance import code_digest; code_digest('server.steps.train'); "
        "print(json.dumps([m for m in ('pandas', 'tensorflow', 'server') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_the_digest_of_training_covers_kernels_and_that_of_validation_does_not() -> None:
    def reached(module: str) -> set[str]:
        found, waiting = set(), [module]
        while waiting:
            name = waiting.pop()
            path = provenance._source(name)
            if name not in found and path is not None:
                found.add(name)
                waiting += provenance._imports(name, path)
        return found

    assert "fedpipe.learning.book_keeping_kernel" in reached("clients.handlers")
    assert "fedpipe.terminal" not in reached("clients.handlers") | reached("server.steps.train")
