import datetime as dt
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from fedpipe.errors import FederationError
from fedpipe.federation import pki

NOW = dt.datetime(2026, 5, 4, tzinfo=dt.timezone.utc)


def test_server_certificate_is_signed_by_its_authority_and_names_every_host() -> None:
    authority = pki.make_authority("demo", NOW)

    certificate = pki.read_certificate(authority.issue(["fed.example.org", "10.0.0.1", "::1"], NOW)[0])

    certificate.verify_directly_issued_by(authority.certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fed.example.org"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1", "::1"]


def test_certificate_is_valid_for_a_node_whose_clock_is_behind() -> None:
    certificate = pki.read_certificate(pki.make_authority("demo", NOW).issue(["a"], NOW)[0])

    assert certificate.not_valid_before_utc < NOW - dt.timedelta(days=1)
    assert certificate.not_valid_after_utc > NOW + dt.timedelta(days=365)


def test_pair_serves_tls(tmp_path: Path) -> None:
    certificate, key = pki.make_authority("demo", NOW).issue(["localhost"], NOW)
    (tmp_path / "pair.pem").write_text(certificate + key)

    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tmp_path / "pair.pem")


def test_key_is_made_once_and_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    first = pki.hold_private_key(path)

    assert path.stat().st_mode & 0o777 == 0o600
    assert pki.public_text(pki.hold_private_key(path).public_key()) == pki.public_text(first.public_key())


def test_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    pki.hold_private_key(tmp_path / "key.pem")
    (tmp_path / "key.pem").chmod(0o644)

    with pytest.raises(FederationError, match="chmod 600"):
        pki.read_private_key(tmp_path / "key.pem")


def test_signature_holds_for_its_statement_and_key_only() -> None:
    key, other = pki.make_key(), pki.make_key()
    signature = pki.sign(key, b"statement")

    assert pki.is_signed_by(key.public_key(), b"statement", signature)
    assert not pki.is_signed_by(key.public_key(), b"another", signature)
    assert not pki.is_signed_by(other.public_key(), b"statement", signature)


def test_public_key_survives_the_journey() -> None:
    key = pki.make_key().public_key()

    assert pki.read_public(pki.public_text(key)).public_numbers() == key.public_numbers()


@pytest.mark.parametrize("text", ["", "nonsense", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA=="])
def test_other_public_keys_are_refused(text: str) -> None:
    with pytest.raises(FederationError):
        pki.read_public(text)


def test_authority_hides_its_key() -> None:
    assert "key" not in repr(pki.make_authority("demo", NOW))
