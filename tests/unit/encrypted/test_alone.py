"""The client works where NumPy and httpx are, and nothing else of what fedpipe needs."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from importlib.metadata import requires
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.unit.encrypted.service import Service
from tests.unit.encrypted.test_client import CARD, ROWS, WEIGHTS, expected

ROOT = Path(__file__).parents[3]
SCRIPT = """
import json, sys
from importlib.util import find_spec
missing = ("tensorflow", "pandas", "scipy", "pydantic", "typer", "flwr", "sqlalchemy")
assert not any(map(find_spec, missing)), sys.path
from pathlib import Path
from fedpipe.encrypted.client import EncryptedClient
from fedpipe.encrypted.tables import predict_file
with EncryptedClient(sys.argv[1]) as client:
    print(json.dumps(client.predict(json.loads(sys.argv[2])).probabilities.tolist()))
    Path("in.csv").write_text("age,state\\n61,ca\\n")
    assert predict_file(client, Path("in.csv"), Path("out.csv")) == 1
"""
# What httpx itself stands on.
BESIDE_HTTPX = (
    "httpx",
    "httpcore",
    "h11",
    "anyio",
    "certifi",
    "idna",
    "sniffio",
    "exceptiongroup",
    "typing_extensions",
)


@pytest.fixture
def bare_python(tmp_path: Path) -> Path:
    """Python with fedpipe's wheel, NumPy, httpx and what these need."""
    wheels = tmp_path / "wheels"
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = wheels.glob("fedpipe-*.whl")
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    (packages,) = (tmp_path / "bare").glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(packages)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    installed = Path(np.__file__).parents[1]
    for name in ("numpy", "numpy.libs", *BESIDE_HTTPX, "typing_extensions.py"):
        if (installed / name).exists():
            (packages / name).symlink_to(installed / name)
    return tmp_path / "bare" / "bin" / "python"


def test_wheel_without_its_dependencies_predicts(bare_python: Path, tmp_path: Path) -> None:
    service = Service(card=dict(CARD), weights=WEIGHTS, bias=np.array([[0]]))
    try:
        run = subprocess.run(
            [bare_python, "-I", "-c", SCRIPT, service.url, json.dumps(ROWS)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        service.close()
    assert run.returncode == 0, run.stderr
    np.testing.assert_allclose(np.array(json.loads(run.stdout))[:, 1], expected(), atol=1e-4)
    assert (tmp_path / "out.csv").read_text().count("\n") == 2


def test_what_httpx_needs_is_all_there() -> None:
    assert httpx.__version__
    needed = {
        entry.split(";")[0].strip().split("=")[0] for entry in requires("httpx") or () if "extra" not in entry
    }
    assert needed <= set(BESIDE_HTTPX)
