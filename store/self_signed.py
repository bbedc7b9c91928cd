"""``--auto-tls``: a key and a certificate that the member signs itself, kept in its data directory."""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_FOLDER = Path("fixtures") / "client"
_SKEW = datetime.timedelta(minutes=5)
_YEAR = datetime.timedelta(days=365)


def ensure(data_dir: Path, hosts: Iterable[str], validity_years: int) -> tuple[Path, Path]:
    """Return certificate and key, made anew where there are none, or the certificate has ended or lacks a host."""
    folder = data_dir / _FOLDER
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    names = _names(hosts)
    now = datetime.datetime.now(datetime.UTC)
    if not (key_file.is_file() and _is_good(cert_file, names, now)):
        data_dir.parent.mkdir(parents=True, exist_ok=True)
        for one in (data_dir, folder.parent, folder):
            one.mkdir(mode=0o700, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _signed(key, names, now, now + validity_years * _YEAR)
        form = serialization.PrivateFormat.PKCS8
        # The certificate last: where it stands, its key does.
        _write(key_file, key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()), 0o600)
        _write(cert_file, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    return cert_file, key_file


def _names(hosts: Iterable[str]) -> set[x509.GeneralName]:
    names: set[x509.GeneralName] = {x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))}
    for host in hosts:
        try:
            names.add(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.add(x509.DNSName(host))
    return names


def _is_good(file: Path, names: set[x509.GeneralName], now: datetime.datetime) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
        found = set(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except (OSError, ValueError, x509.ExtensionNotFound):
        return False
    return names <= found and now < certificate.not_valid_after_utc


def _signed(
    key: ec.EllipticCurvePrivateKey, names: set[x509.GeneralName], now: datetime.datetime, end: datetime.datetime
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "raftsman")])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - _SKEW).not_valid_after(end)
    builder = builder.add_extension(x509.SubjectAlternativeName(sorted(names, key=str)), critical=False)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    # It is its own authority: clients that trust the file can check it.
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return builder.sign(key, hashes.SHA256())


def _write(file: Path, data: bytes, mode: int) -> None:
    partial = file.with_suffix(".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())
    partial.replace(file)
