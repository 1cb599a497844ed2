"""`fedpipe encrypted predict`, from a file to a file."""

from __future__ import annotations

import datetime as dt
import ssl
from ipaddress import ip_address
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner

from fedpipe.cli import app
from fedpipe.encrypted.client import EncryptedClient, trust
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


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """Writes a certificate for 127.0.0.1 that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "service")])
    now = dt.datetime.now(dt.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = directory / "certificate.pem", directory / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return paths


def test_only_a_trusted_certificate_is_spoken_to(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    service = Service(card=dict(CARD), weights=WEIGHTS, bias=np.array([[0]]), context=context)
    try:
        with EncryptedClient(service.url, verify=trust(certificate)) as client:
            assert client.predict([{"age": 61}]).version == 3
        with EncryptedClient(service.url) as client, pytest.raises(EncryptedError, match="certificate"):
            client.predict([{"age": 61}])
    finally:
        service.close()
    assert len(service.tickets) == 1
