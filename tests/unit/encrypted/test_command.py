"""`fedpipe encrypted predict`, from a file to a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fedpipe.cli import app
from fedpipe.encrypted.client import trust
from fedpipe.errors import EncryptedError
from tests.unit.encrypted.service import Service
from tests.unit.encrypted.test_client import CARD, WEIGHTS


def test_command_writes_predictions_and_says_what_the_operator_sees(tmp_path: Path) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("age,state\n61,ca\n")
    service = Service(card=dict(CARD), weights=WEIGHTS, bias=np.array([[0]]), key="mine")
    arguments = [
        "encrypted",
        "predict",
        "--url",
        service.url,
        "--input",
        str(source),
        "--output",
        str(target),
    ]
    try:
        result = CliRunner().invoke(app, arguments, env={"FEDPIPE_ENCRYPTED_KEY": "mine"})
    finally:
        service.close()
    assert result.exit_code == 0, result.output
    assert "Wrote 1 predictions of illness:3 (private)" in result.output
    assert "could see the rows" in result.output
    assert target.read_text().count("\n") == 2


def test_file_without_certificates_is_refused(tmp_path: Path) -> None:
    for content in (None, "no certificate"):
        path = tmp_path / "authority.pem"
        if content:
            path.write_text(content)
        with pytest.raises(EncryptedError, match="PEM certificates"):
            trust(path)
