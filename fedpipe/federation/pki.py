"""Keys and certificates of a federation: one private authority, one server, a key pair for each node.

Curve P-384 throughout, which Flower's node authentication takes (RFC 5656 names it for OpenSSH keys).
Nodes trust this one authority and no other, so no public authority can stand in for the operator.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedpipe.errors import FederationError
from fedpipe.files import write_text

CA_DAYS = 3650
SERVER_DAYS = 398  # what public authorities allow at most
# A node's clock may be behind: a certificate of today must not seem to be one of tomorrow.
BACKDATED = dt.timedelta(days=2)

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey


@dataclass(frozen=True, kw_only=True)
class Authority:
    """A certificate authority. Its repr does not show the key."""

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)

    def issue(self, hosts: Sequence[str], now: dt.datetime) -> tuple[str, str]:
        """Returns a server's (certificate, private key) as PEM, valid for `hosts`: names or addresses."""
        key = make_key()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
        builder = (
            _builder(subject, self.certificate.subject, key.public_key(), now, SERVER_DAYS)
            .add_extension(
                x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        )
        certificate = builder.sign(self.key, hashes.SHA384())
        return to_pem(certificate), private_pem(key)


def make_authority(name: str, now: dt.datetime) -> Authority:
    """Returns a new authority for the federation `name`."""
    key = make_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"fedpipe {name}"[:64])])
    builder = _builder(subject, subject, key.public_key(), now, CA_DAYS).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    return Authority(certificate=builder.sign(key, hashes.SHA384()), key=key)


def read_authority(certificate: Path, key: Path) -> Authority:
    """Returns the authority in two PEM files.

    Raises:
      FederationError: a file is missing or damaged.
    """
    return Authority(certificate=read_certificate(certificate.read_text()), key=read_private_key(key))


def read_certificate(pem: str) -> x509.Certificate:
    """Returns the certificate in `pem`.

    Raises:
      FederationError: it holds none.
    """
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError as error:
        raise FederationError("Expected a PEM certificate, found something else: fetch it again.") from error


def expires_at(certificate: x509.Certificate) -> dt.datetime:
    """Returns the moment, in UTC, from which `certificate` is refused."""
    return certificate.not_valid_after_utc


def make_key() -> PrivateKey:
    """Returns a new private key."""
    return ec.generate_private_key(ec.SECP384R1())


def private_pem(key: PrivateKey) -> str:
    """Returns `key` as unencrypted PEM: for files of mode 600 only."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def to_pem(certificate: x509.Certificate) -> str:
    """Returns `certificate` as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def hold_private_key(path: Path) -> PrivateKey:
    """Returns the key in `path`, made there (mode 600) if there is none."""
    if not path.exists():
        write_text(path, private_pem(make_key()))
    return read_private_key(path)


def read_private_key(path: Path) -> PrivateKey:
    """Returns the key in `path`.

    Raises:
      FederationError: there is none, it is of another kind, or other users can read it.
    """
    try:
        if path.stat().st_mode & 0o077:
            raise FederationError(f"Expected a key that only its owner can read, found {path}: chmod 600.")
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise FederationError(f"Expected a private key in {path}, found none: restore it.") from error
    if not isinstance(key, PrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise FederationError(f"Expected a private key on curve P-384 in {path}, found another kind.")
    return key


def public_text(key: PublicKey) -> str:
    """Returns `key` in OpenSSH's one-line format: what travels in requests."""
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def read_public(text: str) -> PublicKey:
    """Returns the key that `public_text` wrote.

    Raises:
      FederationError: it is none, or on another curve.
    """
    try:
        key = serialization.load_ssh_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FederationError("Expected a public key in OpenSSH's format, found something else.") from error
    if not isinstance(key, PublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise FederationError("Expected a public key on curve P-384, found another kind.")
    return key


def sign(key: PrivateKey, statement: bytes) -> bytes:
    """Returns the signature (ECDSA with SHA-384) of `statement`."""
    return key.sign(statement, ec.ECDSA(hashes.SHA384()))


def is_signed_by(key: PublicKey, statement: bytes, signature: bytes) -> bool:
    """Returns whether the owner of `key` made `signature` for `statement`."""
    try:
        key.verify(signature, statement, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return False
    return True


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PublicKey, now: dt.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
